"""Speed, measured; correctness lives in tests/."""
