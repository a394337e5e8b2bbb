"""The decoder on a GPU in a CPU's arithmetic: half precision by torch, recordings by a stand-in.

What OpenAI's Triton computes of it: tests/kernels/test_gpu_codec.py.
"""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.codec import structure
from engine.codec.decoder import DecoderGraph
from engine.codec.layers import UnsupportedCodecError
from engine.codec.on_gpu import decoder as on_gpu
from engine.codec.on_gpu import load as loading
from engine.codec.on_gpu.decoder import GpuDecoder
from engine.codec.on_gpu.layout import Layout
from engine.codec.session import DecoderSession
from engine.kernels import rounded
from ensemble.serving import on_gpu as serving
from export import parity
from support.recorded import stand_in_for_cuda

pytestmark = [pytest.mark.torch, pytest.mark.slow]
FRAMES, FRAME = 40, 2048
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def graph(codec) -> DecoderGraph:
    return DecoderGraph(codec).eval()


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 64, (10, FRAMES))


@pytest.fixture(scope="module")
@torch.inference_mode()
def whole(codec, codes) -> torch.Tensor:
    """Upstream's audio, float32."""
    return codec.decode(torch.from_numpy(codes)[None], torch.tensor([FRAMES]))[0][:, 0]


def built(graph: DecoderGraph, dtype: torch.dtype = torch.float16, split: bool = False):
    layout = Layout(graph.state_dict(), dtype, split)
    return GpuDecoder(structure.structure_of(graph), layout, CPU, rounded)


def session(graph: DecoderGraph, **how: Any) -> DecoderSession:
    return loading.session(built(graph, **how), structure.structure_of(graph))


def spoken(run: DecoderSession, codes: np.ndarray, ends: tuple[int, ...]) -> torch.Tensor:
    """Decode a stream window by window, each with all of its history."""
    parts = [
        run({"codes": codes[None, :, :end], "new_frames": np.arange(begin, end)[None]})
        for begin, end in pairwise((0, *ends))
    ]
    return torch.from_numpy(np.concatenate(parts, 1))


@pytest.mark.slow
def test_its_distance_from_float32_is_that_of_its_operands(graph, codes, whole) -> None:
    """Random weights, which lose most: on the demo voice one product is 62 dB from float32."""
    exact = spoken(session(graph, split=True), codes, (FRAMES,))
    assert parity.max_abs(exact, whole) <= parity.AUDIO_LIMIT
    assert parity.noise(exact, whole) < 1e-4
    assert 1e-3 < parity.noise(spoken(session(graph), codes, (FRAMES,)), whole) < 0.013
    half = spoken(session(graph, dtype=torch.bfloat16), codes, (FRAMES,))
    assert 0.03 < parity.noise(half, whole) < 0.1


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("ends", [(8, 16, 32, 40), (1, 2, 9, 37, 40), (39, 40)])
def test_streams_are_the_whole(graph, codes, split, ends) -> None:
    """Whether a window goes on from a kept state or has its history decoded again."""
    run, forgetful = session(graph, split=split), session(graph, split=split)
    whole = spoken(run, codes, (FRAMES,))
    assert parity.max_abs(spoken(run, codes, ends), whole) <= parity.AUDIO_LIMIT
    assert run.resumed == len(ends) - 1
    forgetful._state_bytes = 0
    assert parity.max_abs(spoken(forgetful, codes, ends), whole) <= parity.AUDIO_LIMIT
    assert forgetful.resumed == 0


def test_streams_side_by_side_are_streams_alone(graph, codes) -> None:
    """Three rows, one of them new, one behind fewer frames than a context, one of padding."""
    run = session(graph)
    other = np.flip(codes, 1).copy()
    wanted = spoken(run, codes, (8, 16)), spoken(run, other, (8,))
    run({"codes": codes[None, :, :8], "new_frames": np.arange(8)[None]})
    window = np.stack([codes[:, :16], np.pad(other[:, :8], ((0, 0), (8, 0))), codes[:, :16]])
    numbers = np.stack([np.arange(8, 16), np.arange(8), np.full(8, -1)])
    found = torch.from_numpy(run({"codes": window, "new_frames": numbers}))
    assert run.resumed == 2
    assert parity.max_abs(found[:1], wanted[0][:, 8 * FRAME :]) <= parity.AUDIO_LIMIT
    assert parity.max_abs(found[1:2], wanted[1]) <= parity.AUDIO_LIMIT
    assert not found[2].any()


@torch.inference_mode()
def test_what_lies_before_a_windows_history_is_not_heard(graph, codes) -> None:
    """A window with less history than could be heard: there is nothing in the cache before it."""
    part, numbers = torch.from_numpy(codes)[None, :, 28:], torch.arange(32, FRAMES)[None]
    decoder = built(graph, split=True)
    found, cache, context = decoder.resume(part, numbers, 4, *decoder.begin(1))
    assert parity.max_abs(found, graph(part, numbers)) <= parity.AUDIO_LIMIT
    assert (cache.shape[4], context.shape[1]) == (12, graph.context_frames)


@pytest.mark.slow
def test_the_windows_that_streams_ask_for_are_replayed(graph, codes, monkeypatch) -> None:
    """With the bits of a run; other sizes, and histories that were not kept, are run."""
    stand_in_for_cuda(monkeypatch)
    monkeypatch.setattr(on_gpu, "recorded_shapes", lambda: {(1, 8), (2, 8)})
    recorded, decoder = session(graph), built(graph)
    steps = []
    step = decoder._step
    monkeypatch.setattr(decoder, "_step", lambda *inputs: steps.append(1) or step(*inputs))
    with torch.inference_mode():
        decoder.record("a pool")
    assert len(steps) == 2 * 2
    assert decoder._replay is not None and len(decoder._replay._captured) == 2
    recorded._module = decoder
    expected = spoken(session(graph), codes, (8, 16, 19, 27, 40))
    assert torch.equal(spoken(recorded, codes, (8, 16, 19, 27, 40)), expected)
    assert len(steps) == 4 + 2  # 16 to 19 and 27 to 40
    recorded._states.clear()
    recorded({"codes": codes[None, :, :16], "new_frames": np.arange(8, 16)[None]})
    assert len(steps) == 4 + 3
    three = {
        "codes": codes[None, :, :8].repeat(3, 0),
        "new_frames": np.arange(8)[None].repeat(3, 0),
    }
    found = recorded(three)  # more rows than are recorded here
    assert len(steps) == 4 + 4
    np.testing.assert_array_equal(found[1:], found[:1].repeat(2, 0))


def test_few_shapes_are_recorded() -> None:
    shapes = on_gpu.recorded_shapes()
    assert len(shapes) == 17
    assert {(1, 8), (16, 16), (4, 64)} <= shapes
    assert max(rows * new for rows, new in shapes) == on_gpu.RECORDED_AT_MOST


def test_it_is_built_from_the_exported_file(repository, graph, codes, monkeypatch) -> None:
    path = repository / "fish_decoder" / "1" / "model.pt"
    where = path, CPU, torch.float16, rounded
    decoder, described, words = loading.load(*where, split=False)
    assert words == "products of float16"
    run = loading.session(decoder, described)
    assert torch.equal(spoken(run, codes, (8, 16)), spoken(session(graph), codes, (8, 16)))
    assert loading.load(*where, split=True)[2] == "products of float16, each a sum of three"
    monkeypatch.setattr(loading, "NOISE_LIMIT", 0.02)
    assert loading.load(*where)[2].startswith("products of float16, 4")
    monkeypatch.setattr(loading, "NOISE_LIMIT", 0.001)
    decoder, _, words = loading.load(*where)
    assert words.endswith("dB from float32 on random codes, so each is a sum of three")
    assert decoder._operand == torch.float32


def test_a_file_of_an_older_export_is_served_as_it_is(repository, tmp_path) -> None:
    path = repository / "fish_decoder" / "1" / "model.pt"
    torch.jit.load(str(path)).save(str(tmp_path / "model.pt"))
    with pytest.raises(ValueError, match=r"model\.pt is of another version: make export"):
        loading.load(tmp_path / "model.pt", CPU, torch.float16, rounded)


def model(path: Path, inputs: tuple[str, ...], gpu: int | None) -> Any:
    signature = SimpleNamespace(inputs=[SimpleNamespace(name=name) for name in inputs], outputs=[])
    return SimpleNamespace(name="fish_decoder", artefact=path, signature=signature, gpu=gpu)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"FISH_SPEECH_COMPILE": "false"}, "FISH_SPEECH_COMPILE is false"),
        ({"FISH_SPEECH_PRECISION": "full"}, "FISH_SPEECH_PRECISION is full"),
        ({"FISH_SPEECH_PRECISION": "int8"}, "FISH_SPEECH_PRECISION is int8, which is for CPUs"),
    ],
)
def test_where_kernels_cannot_be_had_the_file_is_served(monkeypatch, environment, why) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    served = model(Path("model.pt"), ("codes", "new_frames"), 0)
    assert serving.load_on_gpu(served, said.append) is None
    assert f"serving model.pt in float32, without kernels: {why}" in said[0]


def test_a_server_decodes_by_kernels(repository, graph, codes, monkeypatch) -> None:
    """As on a GPU, but for its kernels, whose place torch takes."""
    import engine.kernels
    from engine.lm import on_gpu as llama_on_gpu
    from engine.lm import placement

    stand_in_for_cuda(monkeypatch)
    monkeypatch.setattr(on_gpu, "recorded_shapes", lambda: {(1, 8)})
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(llama_on_gpu, "fault", lambda: "")
    monkeypatch.setattr(engine.kernels, "gpu_codec", rounded, raising=False)
    placed = placement.Placement(CPU, torch.float16)
    monkeypatch.setattr(placement, "placement_for", lambda settings, instance: placed)
    said: list[str] = []
    path = repository / "fish_decoder" / "1" / "model.pt"
    served = model(path, ("codes", "new_frames"), 0)
    served.signature.outputs = [SimpleNamespace(name="audio")]
    run = serving.load_on_gpu(served, said.append)
    assert run is not None, said
    assert said[0].startswith("fish_decoder: serving model.pt by kernels for this GPU: products of")
    split = "sum of three" in said[0]
    windows = [(0, 8), (8, 16)]
    audio = [
        run({"codes": codes[None, :, :end], "new_frames": np.arange(begin, end)[None]})["audio"]
        for begin, end in windows
    ]
    expected = spoken(session(graph, split=split), codes, (8, 16))
    np.testing.assert_array_equal(np.concatenate(audio, 1), expected)


def test_nothing_is_said_of_what_they_are_not_for() -> None:
    said: list[str] = []
    codes, waveform = ("codes", "new_frames"), ("waveform", "chunk_frames")
    for given in (("model.pt", codes, None), ("model.pt", waveform, 0), ("model.onnx", codes, 0)):
        assert serving.load_on_gpu(model(Path(given[0]), *given[1:]), said.append) is None
    assert said == []


def test_a_codec_of_other_layers_has_no_description(codec, monkeypatch) -> None:
    graph = DecoderGraph(codec)
    unit: Any = next(w.layer for w in graph.windows if type(w.layer).__name__ == "Residual")
    unit.block.append(torch.nn.ReLU())
    with pytest.raises(UnsupportedCodecError, match="is no residual unit of Snakes"):
        structure.structure_of(graph)
