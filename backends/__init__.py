"""Triton backends in Python with the native ones' names: shells of `ensemble.serving.stand_in`."""
