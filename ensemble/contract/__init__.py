"""What the stages agree on: tensors, options, settings, checkpoint facts. NumPy only."""
