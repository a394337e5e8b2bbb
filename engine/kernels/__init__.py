"""Operators for CPUs (C++) and GPUs (OpenAI's Triton), one wrapper each."""
