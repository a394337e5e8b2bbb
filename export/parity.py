"""Compares every artefact with the genuine upstream module before it is put in place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

AUDIO_LIMIT = 1e-4  # largest difference of samples in [-1, 1]: 80 dB below full scale
NOISE_LIMIT = 1e-2  # rms of the difference / rms of the audio: 40 dB below it
LOGITS_LIMIT = 1e-3  # largest difference of logits: rounding of sums in another order, no more
CODES_LIMIT = 0.0  # share that differs: codes are exact

Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Comparison:
    """How far an artefact is from upstream.

    Attributes:
        artefact: MODEL/FILE.
        of: What is compared, and by which measure.
        error: The worst over all cases.
        limit: The largest error that passes.
    """

    artefact: str
    of: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # NaN fails


def onnx_runner(path: Path) -> Run:
    """A function that runs an ONNX file on the CPU with inputs in order."""
    import onnxruntime  # heavy, and an export of TorchScript alone does without it

    options = onnxruntime.SessionOptions()
    # Repacking gigabytes of weights takes longer than it saves in the few runs of a comparison.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {n: t.numpy() for n, t in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(o) for o in session.run(None, feed))

    return run


def script_runner(method: Callable) -> Run:
    """A function that runs a traced method and always returns a tuple."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        out = method(*inputs)
        return out if isinstance(out, tuple) else (out,)

    return run


def max_abs(got: Tensor, expected: Tensor) -> float:
    """The largest difference; infinite if the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    return (got - expected).abs().max().item() if got.numel() else 0.0


def noise(got: Tensor, expected: Tensor) -> float:
    """Rms of the difference over rms of the expected values; infinite if the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    return ((got - expected).square().mean() / expected.square().mean()).sqrt().item()


def differing(got: Tensor, expected: Tensor) -> float:
    """The share of elements that differ; 1 if the shapes differ."""
    return 1.0 if got.shape != expected.shape else (got != expected).float().mean().item()


def test_signal(batch: int, samples: int, sample_rate: int) -> Tensor:
    """A gliding, noisy, voice-like tone: float32 (batch, samples)."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / sample_rate
    rows = []
    for row in range(batch):
        phase = 2 * np.pi * np.cumsum(110 * (row + 1) + 40 * np.sin(5 * time)) / sample_rate
        tone = sum(np.sin(k * phase) / k for k in range(1, 12))
        rows.append(0.2 * tone * np.sin(9 * time) ** 2 + 0.01 * rng.standard_normal(samples))
    return torch.from_numpy(np.stack(rows)).float()


Case = tuple[tuple[Tensor, ...], Tensor]  # inputs, and upstream's result for them


def worst(run: Run, cases: list[Case], measure: Callable[[Tensor, Tensor], float]) -> float:
    """The largest error of an artefact's first output over all cases."""
    return max(measure(run(*inputs)[0], expected) for inputs, expected in cases)


def together(run: Run, cases: list[Case], measure: Callable[[Tensor, Tensor], float]) -> float:
    """The error of all cases as one, so that each counts by its length."""
    pairs = [(run(*inputs)[0].flatten(), expected.flatten()) for inputs, expected in cases]
    return measure(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))


@torch.inference_mode()
def encoder_cases(codec: Any, sample_rate: int, frame: int) -> list[Case]:
    """Cases of two lengths and two batch sizes, in one chunk and in several."""
    cases = []
    for batch in (1, 2):
        for samples in (3 * frame, 7 * frame + 77):
            waveform = test_signal(batch, samples, sample_rate)
            codes = codec.encode(waveform[:, None])[0]
            for chunk in (3 * batch, 8 * batch):
                cases.append(((waveform, torch.full((batch, 1), chunk)), codes))
    return cases


@torch.inference_mode()
def decoder_cases(codec: Any, sizes: tuple[int, ...], frame: int) -> list[Case]:
    """Windows, with history and without, of what upstream decodes at once; two batch sizes."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, n, (2, 23), generator=generator) for n in sizes]
    codes = torch.stack(rows, dim=1)
    whole = codec.decode(codes, torch.tensor([23, 23]))[0][:, 0]
    return [
        ((codes[:batch, :, :end].contiguous(), torch.arange(start, end).repeat(batch, 1)),
         whole[:batch, start * frame : end * frame])
        for batch in (1, 2)
        for start, end in ((0, 4), (4, 13), (22, 23))
    ]  # fmt: skip


def with_padding(cases: list[Case]) -> list[Case]:
    """The cases, and the one with the longest history once more with padding before it."""
    (codes, new), audio = max(cases, key=lambda case: int(case[0][1][0, 0]))
    codes = torch.nn.functional.pad(codes, (9, 0))
    return [*cases, ((codes, new), audio)]


@dataclass(frozen=True)
class LlamaRuns:
    """The three graphs of one exported LLaMA stage.

    Attributes:
        num_codes: Residual codes that `fast_loop` samples from, at most.
    """

    prefill: Run
    decode_step: Run
    fast_loop: Run
    num_codes: int = 1024


@dataclass(frozen=True)
class LlamaCase:
    """A prompt with one more column, and upstream's results for it.

    Attributes:
        tokens: int64 (batch, 1 + codebooks, time + 1).
        prefill, decode_step: Upstream's logits, (batch, tokens), after the prompt and the column.
        state: What upstream's slow transformer gives the fast one after the column.
    """

    tokens: Tensor
    prefill: Tensor
    decode_step: Tensor
    state: Tensor


SIZES = ((1, 6), (2, 6), (1, 19), (2, 19))  # of cases: batch, positions
FEW_SIZES = ((1, 6), (2, 19))  # both lengths and batch sizes, where each case takes a minute


@torch.inference_mode()
def llama_cases(
    genuine: Any, token_ids: Tensor, sizes: tuple[tuple[int, int], ...] = SIZES
) -> list[LlamaCase]:
    """Cases of two lengths and two batch sizes."""
    cases = []
    for batch, time in sizes:
        tokens = _prompt(genuine, batch, time + 1)
        _empty_caches(genuine, batch, time + 1)
        prompt = genuine.forward_generate(tokens[:, :, :time].int(), torch.arange(time))
        column = genuine.forward_generate(tokens[:, :, time:].int(), torch.tensor([time]))
        logits = [found.logits[:, 0, token_ids] for found in (prompt, column)]
        cases.append(LlamaCase(tokens, logits[0], logits[1], column.hidden_states))
    return cases


@torch.inference_mode()
def llama_error(runs: LlamaRuns, genuine: Any, cases: list[LlamaCase]) -> dict[str, float]:
    """The largest difference of the logits of each graph."""
    worst = {"prefill": 0.0, "decode_step": 0.0, "fast_loop": 0.0}
    for case in cases:
        (batch, _, time), config = case.tokens[..., :-1].shape, genuine.config
        lengths, past = torch.full((batch,), time), torch.zeros(batch, dtype=torch.int64)
        none = torch.zeros(config.n_layer, batch, config.n_local_heads, 0, config.head_dim)
        logits, _, keys, values = runs.prefill(case.tokens[..., :-1], lengths, past, none, none)
        worst["prefill"] = max(worst["prefill"], max_abs(logits, case.prefill))
        logits, state, _, _ = runs.decode_step(case.tokens[..., -1], lengths, keys, values)
        worst["decode_step"] = max(worst["decode_step"], max_abs(logits, case.decode_step))
        _empty_caches(genuine, batch, time + 1)
        error = _fast_error(runs, genuine, state, case.state)
        worst["fast_loop"] = max(worst["fast_loop"], error)
    return worst


def _empty_caches(genuine: Any, batch: int, positions: int) -> None:
    genuine.max_seq_len = genuine.max_batch_size = -1  # makes setup_caches allocate again
    genuine.setup_caches(batch, positions, dtype=torch.float32)  # upstream attends to all of it


def _prompt(genuine: Any, batch: int, time: int) -> Tensor:
    """A prompt, a third of it text and the rest speech: int64 (batch, 1 + codebooks, time)."""
    config, tokenizer = genuine.config, genuine.tokenizer
    generator = torch.Generator().manual_seed(time)
    shape = (batch, config.num_codebooks, time)
    codes = torch.randint(0, config.codebook_size, shape, generator=generator)
    text = torch.randint(0, tokenizer.vocab_size, (batch, time), generator=generator)
    spoken = torch.arange(time) >= time // 3
    ids = torch.where(spoken, tokenizer.semantic_begin_id + codes[:, 0], text)
    return torch.cat([ids[:, None], codes * spoken], dim=1)


def _fast_error(runs: LlamaRuns, genuine: Any, state: Tensor, expected_state: Tensor) -> float:
    """Compare the logits of our greedy codes with upstream's for the same codes."""
    config, batch = genuine.config, state.shape[0]
    choices = min(runs.num_codes, config.codebook_size)
    ones, zeros = torch.ones(batch), torch.zeros(batch)
    previous = torch.full((batch, config.num_codebooks - 1, 16), -1)
    noise = torch.ones(batch, config.num_codebooks - 1, choices)
    semantic = torch.arange(batch) + 1
    options = ones, zeros, ones, noise, torch.zeros_like(semantic)
    codes, logits = runs.fast_loop(state, semantic, previous, *options)
    genuine.forward_generate_fast(expected_state, torch.tensor([0]))
    errors = []
    for book in range(1, config.num_codebooks):
        hidden = genuine.fast_embeddings(codes[:, book - 1])
        expected = genuine.forward_generate_fast(hidden, torch.tensor([book]))
        errors.append(max_abs(logits[:, book - 1], expected[:, 0, :choices]))
        if not torch.equal(codes[:, book], logits[:, book - 1].argmax(-1)):
            return float("inf")  # the code is not the largest logit
    return max(errors)
