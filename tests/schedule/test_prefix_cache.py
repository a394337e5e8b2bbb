"""Voices are computed once: the same results hot and cold, in bounded memory."""

import numpy as np
import pytest
import torch

from engine.schedule.prefix_cache import MIN_POSITIONS, PrefixCache
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import Sampling
from ensemble.contract.voice import Reference
from families.fish_s1.prompt import PromptBuilder
from support.engine import Collected

pytestmark = pytest.mark.torch


def voice(builder: PromptBuilder, seed: int, words: str = "Hello there.") -> Reference:
    rng = np.random.default_rng(seed)
    sizes = builder.facts.codebook_sizes
    return Reference(words, np.stack([rng.integers(0, n, 60) for n in sizes]))


def speak(
    scheduler: Scheduler, prompt: np.ndarray, prefix_length: int, seed: int = 1
) -> np.ndarray:
    collected = Collected()
    scheduler.submit(collected.request(prompt, Sampling(seed=seed), prefix_length))
    while scheduler.step():
        pass
    assert not collected.errors
    return collected.codes


@pytest.mark.slow
def test_hot_equals_cold_and_voices_do_not_meet(llama, builder) -> None:
    alice, eve = voice(builder, 1), voice(builder, 2)  # the same words, other codes
    ann = voice(builder, 1, "Hullo there.")  # other words, the same codes
    scheduler = Scheduler(llama, 4)
    jobs = [(text, who) for text in ("One.", "And two.") for who in (alice, eve, ann)]
    for text, who in (*jobs, *jobs):
        prompt, prefix = builder.build(text, [who])
        cold = speak(Scheduler(llama, 4), prompt, prefix)
        np.testing.assert_array_equal(speak(scheduler, prompt, prefix), cold)
        np.testing.assert_array_equal(speak(Scheduler(llama, 4), prompt, 0), cold)
    assert (scheduler.batch.prefixes.stats.hits, scheduler.batch.prefixes.stats.misses) == (9, 3)


def test_voices_come_and_go_within_the_bound(llama, builder) -> None:
    """Room for two of three voices, all asked for at once and in turn."""
    scheduler, results = Scheduler(llama, 4), []
    jobs = [builder.build("One.", [voice(builder, i % 3)]) for i in range(9)]
    (_, prefix), facts = jobs[0], llama.facts
    per_voice = 2 * 4 * facts.num_layers * facts.num_kv_heads * facts.head_dim * prefix
    scheduler.batch.prefixes = PrefixCache(2 * per_voice)
    for prompt, length in jobs:
        results.append(Collected())
        scheduler.submit(results[-1].request(prompt, Sampling(seed=1), length))
    while scheduler.step():
        assert scheduler.batch.prefixes.stats.num_bytes in (0, per_voice, 2 * per_voice)
    stats = scheduler.batch.prefixes.stats
    assert (stats.num_bytes, stats.hits + stats.misses) == (2 * per_voice, 9)
    assert stats.evictions == stats.misses - 2 > 0
    for got, (prompt, _) in zip(results[:3], jobs[:3], strict=True):
        np.testing.assert_array_equal(got.codes, speak(Scheduler(llama, 4), prompt, 0))
    for i, got in enumerate(results):
        np.testing.assert_array_equal(got.codes, results[i % 3].codes)


def test_bytes_are_bounded_and_the_oldest_leave() -> None:
    entry = torch.zeros(2, 2, 10, 4)
    cache = PrefixCache(max_bytes=5 * 2 * entry.numel() * 4)
    for name in "abcde":
        cache.put(name.encode(), entry, entry)
    assert cache.get(b"a") is not None  # now the most recent
    cache.put(b"f", entry, entry)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    assert cache.stats.evictions == 1
    assert cache.stats.num_bytes == cache.max_bytes
    cache.put(b"huge", torch.zeros(100, 100), torch.zeros(100, 100))
    assert cache.get(b"huge") is None


def test_key_is_words_and_codes() -> None:
    prompt = np.arange(11 * 50, dtype=np.int32).reshape(11, 50)
    other = prompt.copy()
    other[5, 7] += 1
    assert PrefixCache.key(prompt, 40) != PrefixCache.key(other, 40)
    assert PrefixCache.key(prompt, 40) != PrefixCache.key(prompt, 41)
    assert PrefixCache.key(prompt, MIN_POSITIONS - 1) == b""


def test_a_lying_prefix_length_poisons_nothing(llama, builder) -> None:
    """Whatever an attacker calls the voice's part, keys and values belong to what was really said.

    It keeps prefixes that are too short, too long or end within another voice; the victim's speech
    is that of an engine which nobody else has used.
    """
    alice, eve = voice(builder, 1), voice(builder, 2)
    prompt, prefix = builder.build("One.", [alice])
    forged = builder.build("One.", [eve])[0]
    mixed = np.concatenate([prompt[:, :40], forged[:, 40:]], axis=1)
    scheduler = Scheduler(llama, 4)
    for table in (forged, mixed, prompt):
        for length in (MIN_POSITIONS, 40, 41, prefix - 1, prefix + 1, table.shape[1] - 1):
            speak(scheduler, table, length, seed=9)
    np.testing.assert_array_equal(
        speak(scheduler, prompt, prefix), speak(Scheduler(llama, 4), prompt, prefix)
    )
    together = [Collected() for _ in range(4)]
    for got, (table, length) in zip(
        together, [(mixed, 41), (prompt, prefix), (forged, prefix), (prompt, 41)], strict=True
    ):
        scheduler.submit(got.request(table, Sampling(seed=1), length))
    while scheduler.step():
        pass
    np.testing.assert_array_equal(together[1].codes, speak(Scheduler(llama, 4), prompt, prefix))


def test_prefixes_of_equal_bytes_have_other_keys() -> None:
    """As an attacker would arrange them."""
    numbers = np.arange(11 * 64, dtype=np.int32)
    tables = [numbers.reshape(11, 64), numbers.reshape(64, 11).T, numbers.reshape(16, 44)]
    keys = [PrefixCache.key(table, length) for table in tables for length in (33, 40, 44)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)
