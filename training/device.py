"""The device that the training computes on: a GPU if there is one."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The codec's Snakes (x + sin^2) amplify rounding errors. The transformers do not: `train_llama`.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = True  # every step has the same shapes
