"""The LLaMA stage's batch: which request is computed next, and where its keys and values lie."""
