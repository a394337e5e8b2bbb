"""The weights of the language model by name, and the file that they come from."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from engine.lm.archive import read_archive
from engine.lm.shape import SHAPE_FILE, DualArShape

GRAPHS_FILE = "llama.pt"


class Weights:
    """Named tensors, seen under a prefix; each is converted when it is taken."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        convert: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        prefix: str = "",
    ) -> None:
        self.tensors, self.convert, self.prefix = tensors, convert, prefix

    def under(self, name: str) -> "Weights":
        """Those whose names continue after `name.`."""
        return Weights(self.tensors, self.convert, f"{self.prefix}{name}.")

    def find(self, name: str) -> Tensor | None:
        """None if the checkpoint has no such tensor."""
        tensor = self.tensors.get(self.prefix + name)
        return None if tensor is None else self.convert(tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self.convert(self.tensors[self.prefix + name])


def load(path: Path) -> tuple[DualArShape, dict[str, Tensor]]:
    """Read `llama.pt`: a TorchScript archive of the stateless graphs, whose weights are mapped.

    Raises:
        FileNotFoundError: If nothing has been exported.
        ValueError: If another version has written it, or it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"fish_llama: {path} is missing. Make it with: make export CHECKPOINT=DIR"
        )
    tensors, shape = read_archive(path, SHAPE_FILE)
    if not shape:
        raise ValueError(
            f"fish_llama: {path} is of an older version. Re-export with: make export CHECKPOINT=DIR"
        )
    return DualArShape.from_json(shape), tensors


def bytes_per_step(
    tensors: dict[str, Tensor], codebooks: int, itemsize: float, of_layers: float
) -> int:
    """Bytes of weights that one step reads: the fast transformer's once per residual codebook.

    Args:
        tensors: As `load` returns them.
        codebooks: Codes of a frame.
        itemsize: Bytes of a number.
        of_layers: Bytes of a number of the layers' matrices.
    """
    total = 0.0
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        times = codebooks - 1 if part == "fast" else 1
        is_matrix = rest.startswith("layers.") and tensor.dim() == 2
        if rest.startswith(("layers.", "norm.", "head.")):
            total += times * tensor.numel() * (of_layers if is_matrix else itemsize)
    return round(total)
