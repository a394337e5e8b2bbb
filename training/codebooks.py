"""Codebooks in closed form: principal axes and k-means instead of training through them.

Upstream looks vectors up by the angle between them. A constant eighth coordinate, large beside the
others, makes that the nearest by distance in the other seven, so residual k-means is all it takes.

Source: `VectorQuantize` of descript-audio-codec 1.0.0.
"""

from typing import Any

import torch
from torch import Tensor

_CONSTANT = 16.0  # the other coordinates' deviation is 1 at most
_ROUNDS = 30
_BITE = 16384


def nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """int64 (vectors,): which of the centres."""
    squares = centres.square().sum(1) / 2
    return torch.cat([(squares - v @ centres.T).argmin(1) for v in vectors.split(_BITE)])


def k_means(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres, float32 (count, dimensions); those that lose all their vectors start anew."""
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
    """float32 (dimensions, kept), of vectors whose mean is 0."""
    return torch.linalg.eigh(vectors.T @ vectors)[1].flip(1)[:, :kept]


@torch.no_grad()
def fit(books: list[Any], subjects: list[slice], latents: Tensor) -> list[float]:
    """Fill the quantizers, each for what those before it left.

    Args:
        books: Upstream's `VectorQuantize`, in the order in which they are asked.
        subjects: Which of the latents each is about.
        latents: float32 (frames, latents), mean 0.

    Returns:
        Of each subject's variance, how much is left after the book.
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
    """Projections onto the axes and back, and the centres."""
    width = axes.shape[1]
    _set(book.in_proj, axes.T)
    book.in_proj.bias.zero_()[-1] = _CONSTANT
    _set(book.out_proj, axes)
    book.out_proj.bias.zero_()
    book.codebook.weight.zero_()[:, -1] = _CONSTANT
    book.codebook.weight[:, :width] = centres


def _set(convolution: Any, matrix: Tensor) -> None:
    """Weight norm keeps length and direction of each row; one of length 0 has any direction."""
    rows = torch.zeros(convolution.weight_v.shape[:2])
    rows[: matrix.shape[0], : matrix.shape[1]] = matrix
    convolution.weight_g.copy_(rows.norm(dim=1)[:, None, None])
    rows[rows.norm(dim=1) == 0] = 1.0
    convolution.weight_v.copy_(rows[:, :, None])
