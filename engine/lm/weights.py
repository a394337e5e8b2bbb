"""`llama.pt`: the weights of `engine.lm.graphs`, and what they do not say."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

GRAPHS_FILE = "llama.pt"
SHAPE_FILE = "shape.json"  # inside of it


@dataclass(frozen=True)
class BlockShape:
    """Of the slow or the fast transformer: layers, and how a layer's heads are cut."""

    layers: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class LlamaShape:
    """Attributes:
    slow, fast: The transformers.
    num_codebooks, codebook_size: Codes per frame; entries of each codebook's embedding.
    semantic_begin, semantic_end: First and last semantic token.
    scale_codebook_embeddings: Whether a frame's embedding is divided by the root of its parts.
    norm_eps: Of every norm.
    """

    slow: BlockShape
    fast: BlockShape
    num_codebooks: int
    codebook_size: int
    semantic_begin: int
    semantic_end: int
    scale_codebook_embeddings: bool
    norm_eps: float

    def files(self) -> dict[str, str]:
        """What goes into `llama.pt` beside the graphs."""
        return {SHAPE_FILE: json.dumps(asdict(self))}


class Weights:
    """Named tensors, looked at under a prefix; each is converted as it is taken."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        convert: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        prefix: str = "",
    ) -> None:
        self.tensors, self.convert, self.prefix = tensors, convert, prefix

    def under(self, name: str) -> "Weights":
        """Those whose names go on after `name.`."""
        return Weights(self.tensors, self.convert, f"{self.prefix}{name}.")

    def find(self, name: str) -> Tensor | None:
        """None if the checkpoint has no such tensor."""
        tensor = self.tensors.get(self.prefix + name)
        return None if tensor is None else self.convert(tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self.convert(self.tensors[self.prefix + name])


def load(path: Path) -> tuple[LlamaShape, dict[str, Tensor]]:
    """Read `llama.pt`: a TorchScript archive of the stateless graphs, whose weights are taken.

    Raises:
        FileNotFoundError: If nothing has been exported.
        ValueError: If an older version has written it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"fish_llama: {path} is missing. Make it with: make export CHECKPOINT=DIR"
        )
    files = {SHAPE_FILE: ""}
    tensors = torch.jit.load(str(path), map_location="cpu", _extra_files=files).state_dict()
    if not files[SHAPE_FILE]:
        raise ValueError(
            f"fish_llama: {path} is of an older version. Re-export with: make export CHECKPOINT=DIR"
        )
    values = json.loads(files[SHAPE_FILE])
    blocks = {name: BlockShape(**values.pop(name)) for name in ("slow", "fast")}
    return LlamaShape(**blocks, **values), tensors
