"""Codebooks in closed form: principal axes and residual k-means instead of training.

Upstream looks up the centre with the smallest angle. A constant eighth coordinate, large beside the
other seven, makes that the nearest centre in those seven, so k-means fits what upstream looks up.

Source: `VectorQuantize` of descript-audio-codec 1.0.0.
"""

from typing import Any

import torch
from torch import Tensor

_CONSTANT = 16.0  # large beside the other coordinates, whose deviation is 1 at most
_ROUNDS = 30  # of k-means
_SLICE = 16384  # vectors whose distances are in memory together: 16 MB for 256 centres


def nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each vector, int64 (vectors,)."""
    squares = centres.square().sum(1) / 2
    return torch.cat([(squares - v @ centres.T).argmin(1) for v in vectors.split(_SLICE)])


def k_means(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres, float32 (count, dimensions); one that loses all vectors restarts at a random one."""
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(_ROUNDS):
        chosen = nearest(vectors, centres)
        members = torch.bincount(chosen, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, chosen, vectors)
        lost = members == 0
        centres = sums / members.clamp(min=1)[:, None]
        again = torch.randint(len(vectors), (int(lost.sum()),), generator=generator)
        centres[lost] = vectors[again]
    return centres


def principal_axes(vectors: Tensor, kept: int) -> Tensor:
    """First principal axes of vectors whose mean is 0, float32 (dimensions, kept)."""
    return torch.linalg.eigh(vectors.T @ vectors)[1].flip(1)[:, :kept]


@torch.no_grad()
def fit(books: list[Any], subjects: list[slice], latents: Tensor) -> list[float]:
    """Fit the quantizers, each to the residual of those before it.

    Args:
        books: Upstream's `VectorQuantize`, in the order in which they quantise.
        subjects: Columns of the latents that each quantises.
        latents: float32 (frames, latents), mean 0.

    Returns:
        Share of the subject's variance that is left after each book.
    """
    generator = torch.Generator().manual_seed(5)
    residual, left = latents.clone(), []
    for book, subject in zip(books, subjects, strict=True):
        part = residual[:, subject]
        width = min(book.codebook_dim - 1, part.shape[1])
        axes = torch.zeros(latents.shape[1], width, device=latents.device)
        axes[subject] = principal_axes(part, width)
        vectors = residual @ axes
        centres = k_means(vectors, book.codebook_size, generator)
        install(book, axes, centres)
        residual -= centres[nearest(vectors, centres)] @ axes.T
        whole = latents[:, subject].square().sum()
        left.append(float(residual[:, subject].square().sum() / whole))
    return left


def install(book: Any, axes: Tensor, centres: Tensor) -> None:
    """Write the projections onto the axes and back, and the centres, into a quantizer."""
    width = axes.shape[1]
    _set(book.in_proj, axes.T)
    book.in_proj.bias.zero_()[-1] = _CONSTANT
    _set(book.out_proj, axes)
    book.out_proj.bias.zero_()
    book.codebook.weight.zero_()[:, -1] = _CONSTANT
    book.codebook.weight[:, :width] = centres


def _set(convolution: Any, matrix: Tensor) -> None:
    """Write a matrix in weight norm: length and direction of each row (any, if its length is 0)."""
    rows = torch.zeros(convolution.weight_v.shape[:2])
    rows[: matrix.shape[0], : matrix.shape[1]] = matrix
    convolution.weight_g.copy_(rows.norm(dim=1)[:, None, None])
    rows[rows.norm(dim=1) == 0] = 1.0
    convolution.weight_v.copy_(rows[:, :, None])
