"""Streamed == offline, sample for sample: by the engine's own schedules, and through a server."""

import queue
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tritonclient import grpc

from engine.codec.decoder import DecoderGraph
from engine.schedule.chunk_schedule import ChunkSchedule
from ensemble.contract.window import Window
from launch.server import Server
from support.raw import tensors

pytestmark = [pytest.mark.torch, pytest.mark.slow]
LONGEST = 1000
FRAME = 2048
LENGTHS = [1, 2, 3, 7, 8, 9, 23, 24, 25, 43, 57, 121, 256, 513, LONGEST]
SCHEDULES = [(1, 1), (1, 512), (3, 5), (8, 64), (64, 64), (512, 512)]  # first, largest


@pytest.fixture(scope="module")
def decoder(codec) -> DecoderGraph:
    return DecoderGraph(codec).eval()


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 64, (LONGEST, 10))


@torch.inference_mode()
def upstream(codec, codes: np.ndarray) -> np.ndarray:
    audio, _ = codec.decode(torch.from_numpy(codes.T.copy())[None], torch.tensor([len(codes)]))
    return audio[0, 0].numpy()


@pytest.fixture(scope="module")
def whole(codec, codes) -> np.ndarray:
    return upstream(codec, codes)


def windows(codes: np.ndarray, first: int, largest: int, history: int) -> list[Window]:
    """As the engine hands them out, frame by frame."""
    schedule, found = ChunkSchedule(first, largest, history), []
    for count in range(1, len(codes)):
        if schedule.due(count):
            found.append(schedule.cut(codes[:count]))
    return [*found, schedule.cut(codes, "stop")]


@torch.inference_mode()
def decoded(decoder, window: Window) -> np.ndarray:
    inputs = (torch.from_numpy(x)[None] for x in (window.codes, window.new_frames))
    return decoder(*inputs)[0, : window.num_frames * FRAME].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_streamed_equals_upstreams_whole(codec, decoder, codes, length) -> None:
    expected = upstream(codec, codes[:length])
    parts = [decoded(decoder, w) for w in windows(codes[:length], 8, 64, decoder.history_frames)]
    audio = np.concatenate(parts)
    assert audio.shape == (length * FRAME,)
    assert np.abs(audio - expected).max() <= 1e-4


@pytest.mark.parametrize(("first", "largest"), SCHEDULES)
def test_every_schedule_equals_the_whole(decoder, codes, whole, first, largest) -> None:
    length = 150 if largest < 8 else LONGEST
    cut = windows(codes[:length], first, largest, decoder.history_frames)
    audio = np.concatenate([decoded(decoder, w) for w in cut])
    assert audio.shape == (length * FRAME,)
    assert np.abs(audio - whole[: length * FRAME]).max() <= 1e-4


@torch.inference_mode()
def test_a_batch_of_windows_padded_on_the_right(decoder, codes, whole) -> None:
    """Rows at different places of their streams, of equal history, with less and less to say."""
    history, new, rows = decoder.history_frames, 16, []
    for start, valid in ((100, 16), (333, 9), (700, 1), (984, 16)):
        row = np.zeros((10, history + new), np.int64)
        row[:, : history + valid] = codes[start - history : start + valid].T
        numbers = np.where(np.arange(new) < valid, np.arange(start, start + new), -1)
        rows.append((row, numbers, whole[start * FRAME : (start + valid) * FRAME]))
    batch = (torch.from_numpy(np.stack([row[i] for row in rows])) for i in (0, 1))
    for audio, (_, _, expected) in zip(decoder(*batch), rows, strict=True):
        assert np.abs(audio[: len(expected)].numpy() - expected).max() <= 1e-4


@torch.inference_mode()
def test_a_batch_of_windows_with_unequal_histories(decoder, codes, whole) -> None:
    """Padding before those that are shorter, down to one frame, and behind those with less new."""
    history, new, rows = 600, 16, []
    for start, valid in ((1, 16), (2, 3), (9, 16), (40, 9), (200, 16), (600, 1)):
        row = np.full((10, history + new), 63)
        row[:, history - start : history + valid] = codes[: start + valid].T
        numbers = np.where(np.arange(new) < valid, np.arange(start, start + new), -1)
        rows.append((row, numbers, whole[start * FRAME : (start + valid) * FRAME]))
    batch = (torch.from_numpy(np.stack([row[i] for row in rows])) for i in (0, 1))
    for audio, (_, _, expected) in zip(decoder(*batch), rows, strict=True):
        assert np.abs(audio[: len(expected)].numpy() - expected).max() <= 1e-4


@pytest.fixture(scope="module")
def three_instances(repository, tmp_path_factory):
    """A server of the decoder alone, three times."""
    folder: Path = tmp_path_factory.mktemp("three") / "fish_decoder"
    folder.mkdir()
    (folder / "1").symlink_to(repository / "fish_decoder" / "1")
    config = (repository / "fish_decoder" / "configs" / "cpu.pbtxt").read_text()
    assert "count: 1, kind: KIND_CPU" in config
    (folder / "config.pbtxt").write_text(config.replace("count: 1,", "count: 3,"))
    with Server(folder.parent) as server, grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("length", [1, 43, pytest.param(400, marks=pytest.mark.long)])
def test_windows_in_any_order_by_any_instance(three_instances, decoder, codes, whole, length):
    """All at once, shuffled; streams of several schedules at the same time."""
    jobs = [
        (name, window)
        for name in ((1, 16), (8, 64), (64, 64))
        for window in windows(codes[:length], *name, decoder.history_frames)
    ]
    random.Random(length).shuffle(jobs)
    answers: queue.Queue = queue.Queue()
    for job in jobs:
        inputs = tensors(codes=job[1].codes, new_frames=job[1].new_frames)
        answered = partial(lambda job, result, error: answers.put((job, result, error)), job)
        three_instances.async_infer("fish_decoder", inputs, answered)
    parts: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for _ in jobs:
        (name, window), result, error = answers.get(timeout=60)
        assert error is None
        audio = result.as_numpy("audio")[0]
        assert audio.shape == (len(window.new_frames) * FRAME,)
        parts.setdefault(name, {})[window.index] = audio[: window.num_frames * FRAME]
    for chunks in parts.values():
        audio = np.concatenate([chunks[i] for i in range(len(chunks))])
        assert audio.shape == (length * FRAME,)
        assert np.abs(audio - whole[: length * FRAME]).max() <= 1e-4
