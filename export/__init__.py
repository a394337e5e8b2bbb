"""Weights to artefacts: checkpoints in, checked graphs out. The only home of torch.export."""
