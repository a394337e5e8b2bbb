"""The codec's codebooks: the nearest entry to a vector, and the vector of an entry.

Source: `VectorQuantize` of descript-audio-codec 1.0.0; `DownsampleResidualVectorQuantize` of
fish-speech 0.1.0, models/dac/rvq.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.layers import folded


def quantizers(codec: Any) -> list[Any]:
    """Upstream's quantizers: the semantic codebook first, then the residual ones."""
    return [
        *codec.quantizer.semantic_quantizer.quantizers,
        *codec.quantizer.quantizer.quantizers,
    ]


class Quantizer(nn.Module):
    """One codebook: nearest entry by cosine, in a space of few dimensions (8 in S1-mini)."""

    unit: Tensor
    unit_squared: Tensor

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.project_in = folded(genuine.in_proj)
        self.project_out = folded(genuine.out_proj)
        self.codebook = nn.Parameter(genuine.codebook.weight.detach().clone())
        unit = F.normalize(self.codebook.detach())
        self.register_buffer("unit", unit.t().contiguous())
        self.register_buffer("unit_squared", unit.pow(2).sum(1)[None])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (batch, dim, time) -> its quantized form, int64 codes (batch, time)."""
        latent = self.project_in(z)
        direction = F.normalize(latent.transpose(1, 2), dim=-1)
        # Upstream's expression, term by term: codes must not flip on rounding.
        distance = direction.pow(2).sum(-1, keepdim=True) - 2 * direction @ self.unit
        codes = (-(distance + self.unit_squared)).argmax(-1)
        entry = F.embedding(codes, self.codebook).transpose(1, 2)
        return self.project_out(latent + (entry - latent)), codes


class ResidualQuantizer(nn.Module):
    """All codebooks; each quantizes what those before it have left."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.books = nn.ModuleList(Quantizer(q) for q in quantizers(codec))

    def forward(self, z: Tensor) -> Tensor:
        """float32 (batch, dim, frames) -> int64 codes (batch, codebooks, frames)."""
        codes = []
        for book in self.books:
            quantized, code = book(z)
            z = z - quantized
            codes.append(code)
        return torch.stack(codes, dim=1)


class CodebookRows(nn.Module):
    """Codes -> rows of the one table in which the entries of all codebooks lie."""

    largest: Tensor
    offset: Tensor

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.register_buffer("largest", torch.tensor(sizes)[None, :, None] - 1)
        self.register_buffer("offset", torch.tensor([0, *sizes[:-1]]).cumsum(0)[None, :, None])

    def forward(self, codes: Tensor) -> Tensor:
        """int64 (batch, codebooks or more, frames) -> int64 (batch, codebooks, frames).

        Rows of codes beyond the codebooks are not read; a code outside its codebook counts as the
        nearest one in it.
        """
        codes = codes[:, : self.largest.shape[1]].clamp(min=0)
        return torch.minimum(codes, self.largest) + self.offset


class Dequantizer(nn.Module):
    """Codes -> the vectors that they stand for, those of all codebooks added up."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        books: list[Any] = [Quantizer(q) for q in quantizers(codec)]
        self.rows = CodebookRows([book.codebook.shape[0] for book in books])
        self.entries = nn.Parameter(torch.cat([b.codebook.detach() for b in books]))
        # The sum of all projections is one projection of all entries side by side.
        weight = torch.cat([b.project_out.weight.detach()[:, :, 0] for b in books], dim=1)
        bias = torch.stack([b.project_out.bias.detach() for b in books]).sum(0)
        self.project = nn.Linear(weight.shape[1], weight.shape[0])
        self.project.weight = nn.Parameter(weight)
        self.project.bias = nn.Parameter(bias)

    def forward(self, codes: Tensor) -> Tensor:
        """int64 (batch, codebooks or more, frames) -> float32 (batch, dim, frames)."""
        entries = F.embedding(self.rows(codes), self.entries)  # batch, codebooks, frames, few
        return self.project(entries.transpose(1, 2).flatten(2)).transpose(1, 2)
