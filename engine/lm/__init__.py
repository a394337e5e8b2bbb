"""The dual autoregressive transformer: prompt and codes in, the next frame of codes out."""
