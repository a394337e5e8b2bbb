"""Upstream's own greedy speech, and how far its choices were from being others."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

TIE = 1e-4  # logits; upstream's two best within it: rounding may pick either


@dataclass
class Greedy:
    """Attributes:
    codes: int64 (codebooks, frames), without the end token's frame.
    margins: float32 (frames, codebooks), best logit less second best, of the end's frame too.
    """

    codes: np.ndarray
    margins: np.ndarray


def greedy(model: Any, prompt: np.ndarray, frames: int, speech_ends: bool = True) -> Greedy:
    """What the genuine `generate` says.

    Args:
        model: Upstream's, in float32.
        prompt: int32 (1 + codebooks, positions).
        frames: At most.
        speech_ends: False forbids the end token.
    """
    from families.fish_s1 import upstream

    inference: Any = upstream._inference
    probs, margins, books = inference.logits_to_probs, [], prompt.shape[0] - 1
    end = model.tokenizer.get_token_id("<|im_end|>")

    def watched(logits: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        if not speech_ends and len(margins) % books == 0:
            logits[end] = float("-inf")
        best, second = logits.topk(2).values.tolist()
        margins.append(best - second)
        return probs(logits=logits, **options)

    inference.logits_to_probs = watched
    try:
        out = upstream.generate(
            model=model, prompt=torch.from_numpy(prompt), max_new_tokens=frames + 1,
            audio_masks=None, audio_parts=None,
            temperature=1.0, top_p=1e-9, repetition_penalty=1.0,
        )  # fmt: skip
    finally:
        inference.logits_to_probs = probs
    new = out[:, prompt.shape[1] :].numpy()
    ended = np.flatnonzero(new[0] == end)
    codes = new[1:, : ended[0] if len(ended) else frames].astype(np.int64)
    return Greedy(codes, np.array(margins, np.float32).reshape(-1, books))


def assert_same(codes: np.ndarray, reason: str, genuine: Greedy, limit: int) -> None:
    """Hold a greedy result, int64 (codebooks, frames), against upstream's up to `limit` frames.

    A difference counts but where upstream's two best logits tie; then the rest is of another
    speech, and a warning says where it began.
    """
    expected = genuine.codes[:, :limit]
    both = min(codes.shape[1], expected.shape[1])
    differing = np.argwhere((codes[:, :both] != expected[:, :both]).T)
    ends_alike = codes.shape[1] == expected.shape[1]
    if ends_alike and not len(differing):
        assert reason == ("length" if expected.shape[1] == limit else "stop")
        return
    frame, book = differing[0] if len(differing) else (both, 0)
    margin = genuine.margins[frame, book]
    where = f"frame {frame}, codebook {book}: upstream's two best logits are {margin:.1e} apart"
    assert margin <= TIE, f"another choice at {where}"
    warnings.warn(f"a tie was broken otherwise at {where}", stacklevel=2)
