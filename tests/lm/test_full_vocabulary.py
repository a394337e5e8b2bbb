"""An export with the full vocabulary samples as fish-speech 0.1.0 does, oddities included."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.lm.load import load_runner
from engine.lm.on_torch import TorchRunner
from ensemble.contract.facts import Facts
from ensemble.contract.options import Sampling
from support.engine import FULL, run

pytestmark = pytest.mark.torch
LIMIT = 130  # frames; more than the guard against loops looks at


@pytest.fixture(scope="module")
def pair_of(
    tiny_checkpoint, repository, tmp_path_factory
) -> Callable[..., tuple[Any, TorchRunner]]:
    """Upstream's model with another head, and a runner of its export."""
    from export.lm import export_llama
    from families.fish_s1.checkpoint import load_checkpoint, load_llama
    from families.fish_s1.engine_llama import engine_llama

    def pair(change: Callable[[torch.Tensor, Any], object]) -> tuple[Any, TorchRunner]:
        genuine = load_llama(load_checkpoint(tiny_checkpoint))
        change(genuine.output.weight.data, genuine.tokenizer)
        folder = tmp_path_factory.mktemp("parity") / "1"
        whole = engine_llama(genuine, full_vocabulary=True)
        export_llama(genuine, whole, torch.float32, folder, lambda _: None)
        facts = Facts.load(Path(repository) / "fish_llama" / "1")
        replace(facts, full_vocabulary=True).save(folder)
        return genuine, load_runner(folder, FULL)

    return pair


def upstream(model: Any, prompt: np.ndarray, penalty: float, limit: int) -> torch.Tensor:
    """int32 (1 + codebooks, frames) of the genuine `generate`, greedy, cut as `generate_long`."""
    from families.fish_s1.upstream import generate

    out = generate(
        model=model, prompt=torch.from_numpy(prompt), max_new_tokens=limit, audio_masks=None,
        audio_parts=None, temperature=1.0, top_p=1e-9, repetition_penalty=penalty,
    )  # fmt: skip
    return out[:, prompt.shape[1] : -1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "penalties"),
    [(1, (1.0, 1.9)), pytest.param(3, (1.0, 1.1, 1.9), marks=pytest.mark.long)],
)
def test_greedy_with_penalty_equals_upstream(pair_of, prompts, count, penalties) -> None:
    """Any token, its penalty, no guard against loops, the last frame cut."""

    def speaks_text(weight: torch.Tensor, tokenizer: Any) -> None:
        weight[:, 0] = 0  # what steers a random checkpoint towards codes
        weight[tokenizer.semantic_end_id + 1 :, 0] = -30  # beyond, upstream ends in an IndexError
        weight[tokenizer.get_token_id("<|im_end|>"), 0] = -30

    genuine, llama = pair_of(speaks_text)
    jobs = [(p, penalty) for p in prompts[:count] for penalty in penalties]
    sampling = [
        Sampling(temperature=0, repetition_penalty=penalty, max_new_tokens=LIMIT)
        for _, penalty in jobs
    ]
    together = run(llama, [(p, s) for (p, _), s in zip(jobs, sampling, strict=True)], 4, 2)
    texts, found = 0, set()
    for (prompt, penalty), got in zip(jobs, together, strict=True):
        expected = upstream(genuine, prompt, penalty, LIMIT)
        assert expected.shape[1] == LIMIT - 1
        np.testing.assert_array_equal(got.codes, expected[1:].numpy())
        assert got.reason == "length"
        is_text = expected[0] < genuine.tokenizer.semantic_begin_id
        assert (expected[1][is_text] == 0).all()
        texts += int(is_text.sum())
        found.add(expected.numpy().tobytes())
    assert texts > LIMIT  # upstream does sample what is no speech
    assert len(found) > count  # the penalty does something


@pytest.mark.slow
def test_an_end_in_the_first_frame_is_not_noticed(pair_of, prompts) -> None:
    def always_ends(weight: torch.Tensor, tokenizer: Any) -> None:
        weight[:, 0] = -30
        weight[tokenizer.get_token_id("<|im_end|>"), 0] = 30

    genuine, llama = pair_of(always_ends)
    expected = upstream(genuine, prompts[0], 1.0, LIMIT)
    assert expected.shape[1] == 1
    assert expected[:2, 0].tolist() == [llama.facts.im_end_id, 0]
    (got,) = run(llama, [(prompts[0], Sampling(temperature=0, repetition_penalty=1.0))])
    np.testing.assert_array_equal(got.codes, expected[1:].numpy())
    assert got.reason == "stop"
