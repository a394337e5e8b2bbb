"""What the weights of a dual autoregressive transformer do not say of themselves.

A slow transformer reads a frame at a time and gives the frame's semantic code; a fast one gives
the residual codes of that frame, one after another.
"""

import json
from dataclasses import asdict, dataclass

SHAPE_FILE = "shape.json"  # inside `llama.pt`


@dataclass(frozen=True)
class TransformerShape:
    """Of one transformer: the number of layers, and how a layer's heads are cut."""

    layers: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class DualArShape:
    """Attributes:
    slow, fast: The two transformers.
    num_codebooks: Codes of a frame.
    codebook_size: Entries of each codebook's embedding.
    semantic_begin, semantic_end: First and last semantic token.
    scale_codebook_embeddings: Whether the sum of a frame's embeddings is divided by the square
        root of their number.
    norm_eps: Epsilon of every norm.
    norm_fast_input: Whether the fast transformer is fed the slow state behind the slow
        transformer's norm, and not the one before it.
    """

    slow: TransformerShape
    fast: TransformerShape
    num_codebooks: int
    codebook_size: int
    semantic_begin: int
    semantic_end: int
    scale_codebook_embeddings: bool
    norm_eps: float
    norm_fast_input: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DualArShape":
        values = json.loads(text)
        parts = {name: TransformerShape(**values.pop(name)) for name in ("slow", "fast")}
        return cls(**parts, **values)
