"""The LLaMA stage: prompts in, frames of codes out, many requests at a time. No Triton in here."""
