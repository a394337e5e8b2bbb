"""Python-based Triton backends carrying the native backends' names, and what they share."""
