"""The encoder chunk by chunk: the codes of the whole, in memory that does not grow."""

import shutil
import subprocess
import sys

import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf

from engine.codec.encoder import EncoderGraph
from export.parity import test_signal as signal
from families.fish_s1.checkpoint import CODEC_CONFIG, load_checkpoint, load_codec
from families.fish_s1.make_checkpoint import make_checkpoint
from families.fish_s1.upstream import DAC

pytestmark = [pytest.mark.torch, pytest.mark.slow]
FRAME = 2048
CHUNKS = [9, 16, 17, 64, 128, 200, 1000]  # the encoder's attention has a window of 128 frames


@pytest.fixture(
    scope="module", params=["tiny", pytest.param("tiny-8books", marks=pytest.mark.long)]
)
def checkpoint(request, tiny_checkpoint, tmp_path_factory):
    if request.param == "tiny":
        return tiny_checkpoint
    folder = tmp_path_factory.mktemp("variant") / request.param
    make_checkpoint(request.param, folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def each_codec(checkpoint) -> DAC:
    return load_codec(load_checkpoint(checkpoint))


@pytest.fixture(scope="module")
def graph(each_codec) -> EncoderGraph:
    return EncoderGraph(each_codec).eval()


def chunk_frames(batch: int, frames: int) -> torch.Tensor:
    return torch.full((batch, 1), frames)


@torch.inference_mode()
@pytest.mark.parametrize(
    "samples", [1, 5 * FRAME, 44 * FRAME - 1, pytest.param(260 * FRAME + 7, marks=pytest.mark.long)]
)
def test_chunks_give_upstreams_codes(each_codec, graph, samples) -> None:
    waveform = signal(2, samples, 44100)
    expected, _ = each_codec.encode(waveform[:, None])
    for chunk in CHUNKS:
        codes = graph(waveform, chunk_frames(2, 2 * chunk))
        assert codes.shape == expected.shape
        assert torch.equal(codes, expected), f"chunks of {chunk} frames"


@torch.inference_mode()
def test_a_chunk_is_shared_by_the_rows_and_the_smallest_counts(graph) -> None:
    sizes = []
    waveform, step = signal(4, 40 * FRAME, 44100), graph.step.forward

    def watched(part, state, start):
        sizes.append(part.shape[1] // FRAME)
        return step(part, state, start)

    graph.step.forward = watched
    try:
        codes = graph(waveform, torch.tensor([[100], [65], [2**62], [70]]))
        assert sizes == [16, 16, 8]
        graph(waveform[:1], chunk_frames(1, 0))
        assert sizes[3:] == [1] * 40
    finally:
        del graph.step.forward
    for row, expected in zip(waveform, codes, strict=True):
        assert torch.equal(graph(row[None], chunk_frames(1, 40))[0], expected)


@torch.inference_mode()
def test_beyond_upstreams_tables_equals_upstream_with_longer_ones(tiny_checkpoint, tmp_path):
    folder = tmp_path / "shorter"
    shutil.copytree(tiny_checkpoint, folder)
    config = OmegaConf.load(folder / CODEC_CONFIG)
    config.transformer_general_config.block_size = 4 * 150
    config.quantizer.pre_module.config.block_size = 150
    config.quantizer.post_module.config.block_size = 150
    OmegaConf.save(config, folder / CODEC_CONFIG)
    shorter = load_codec(load_checkpoint(folder))
    waveform = signal(1, 300 * FRAME, 44100)
    with pytest.raises(IndexError):  # upstream's own message: out of bounds
        shorter.encode(waveform[:, None])
    expected, _ = load_codec(load_checkpoint(tiny_checkpoint)).encode(waveform[:, None])
    graph = EncoderGraph(shorter, max_frames=300).eval()
    assert torch.equal(graph(waveform, chunk_frames(1, 64)), expected)


@torch.inference_mode()
def test_both_artefacts_loop_over_chunks(repository, codec) -> None:
    """Loaded by the plain runtimes, as NVIDIA's backends do."""
    folder = repository / "fish_encoder" / "1"
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    module = torch.jit.load(str(folder / "model.pt"))
    waveform = signal(3, 70 * FRAME + 5, 44100)
    expected, _ = codec.encode(waveform[:, None])
    for chunk in (7, 20, 71, 500, 2**60):
        size = chunk_frames(3, 3 * chunk)
        feed = {"waveform": waveform.numpy(), "chunk_frames": size.numpy()}
        (codes,) = session.run(None, feed)
        assert torch.equal(torch.from_numpy(codes), expected)
        assert torch.equal(module(waveform, size), expected)


_PEAK = """
import sys
import numpy as np, onnxruntime
path, seconds, chunk = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
session = onnxruntime.InferenceSession(path)
waveform = np.random.default_rng(0).normal(0, 0.1, (1, int(44100 * seconds))).astype(np.float32)
session.run(None, {"waveform": waveform, "chunk_frames": np.array([[chunk]])})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_mib(path, seconds: float, chunk: int) -> float:
    arguments = [sys.executable, "-c", _PEAK, str(path), str(seconds), str(chunk)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def test_memory_grows_with_the_chunk_not_with_the_recording(repository) -> None:
    path = repository / "fish_encoder" / "1" / "model.onnx"
    short, long, whole = peak_mib(path, 5, 64), peak_mib(path, 40, 64), peak_mib(path, 40, 10**6)
    waveforms = 5 * 35 * 44100 * 4 / 2**20  # made in double precision, given and padded in single
    assert long - short < waveforms
    assert whole - long > 2 * waveforms
