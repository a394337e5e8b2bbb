"""Where the training computes: on a GPU if there is one."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The codec's sines make much of rounding. (The transformers may round: see `train_llama`.)
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = True  # every step has the same shapes
