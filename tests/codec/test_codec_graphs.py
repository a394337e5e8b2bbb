"""The codec graphs against upstream: chunked == whole, for every way to cut."""

import numpy as np
import pytest
import torch

from engine.codec.decoder import DecoderGraph
from engine.codec.encoder import EncoderGraph
from engine.codec.layers import UnsupportedCodecError
from export.codec_kernels import in_bfloat16
from export.parity import noise
from export.parity import test_signal as signal

pytestmark = pytest.mark.torch
FRAMES = 90
FRAME = 2048


@pytest.fixture(scope="module")
def decoder(codec) -> DecoderGraph:
    return DecoderGraph(codec).eval()


@pytest.fixture(scope="module")
def codes(codec) -> torch.Tensor:
    return torch.randint(0, 64, (2, 10, FRAMES), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
@torch.inference_mode()
def whole(codec, codes) -> torch.Tensor:
    audio, _ = codec.decode(codes, torch.tensor([FRAMES, FRAMES]))
    assert audio.std() > 0.02
    return audio[:, 0]


def window(decoder, codes, start: int, end: int, history: int, padding: int = 0) -> torch.Tensor:
    begin = max(0, start - history)
    part = torch.nn.functional.pad(codes[:, :, begin:end], (0, padding))
    new = torch.arange(start, end + padding).repeat(len(codes), 1)
    return decoder(part, new)[:, : (end - start) * FRAME]


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8, 13, 16, 32, 64, FRAMES])
def test_chunked_equals_whole(decoder, codes, whole, chunk) -> None:
    parts = [
        window(decoder, codes, s, min(s + chunk, FRAMES), decoder.history_frames)
        for s in range(0, FRAMES, chunk)
    ]
    assert (torch.cat(parts, dim=1) - whole).abs().max() <= 1e-4


@torch.inference_mode()
def test_padding_on_the_right_changes_nothing(decoder, codes, whole) -> None:
    audio = window(decoder, codes, 40, 47, decoder.history_frames, padding=9)
    assert (audio - whole[:, 40 * FRAME : 47 * FRAME]).abs().max() <= 1e-4


@torch.inference_mode()
def test_history_is_what_is_heard_and_no_more(decoder, codes) -> None:
    """Frames older than `history_frames` are without effect; the oldest of them is not."""
    history = decoder.history_frames
    start, end = history + 5, history + 9
    if end > FRAMES:
        pytest.skip(f"needs more than {FRAMES} frames: history is {history}")
    exact = window(decoder, codes, start, end, start)
    assert (window(decoder, codes, start, end, history) - exact).abs().max() <= 1e-5
    convolutions_only = decoder.context_frames - 1
    assert (window(decoder, codes, start, end, convolutions_only) - exact).abs().max() > 1e-5


AT_ONCE = torch.tensor([[1000]])  # chunks: tests/codec/test_encoder.py


@torch.inference_mode()
def test_bfloat16_leaves_its_graph_as_it_was(codec, codes, whole) -> None:
    """The export judges 8 bits by a copy in bfloat16; what it exports stays in float32."""
    graph = DecoderGraph(codec).eval()
    window, new = codes[:, :, :30], torch.arange(20, 30).repeat(2, 1)
    (half,) = in_bfloat16(graph)(window, new)
    expected = whole[:, 20 * FRAME : 30 * FRAME]
    assert (graph(window, new) - expected).abs().max() <= 1e-4
    assert 1e-3 < noise(half, expected) < 0.2


@torch.inference_mode()
def test_bfloat16_loses_as_much_where_it_is_not_emulated(codec, codes, monkeypatch) -> None:
    """Nearly: torch's emulation rounds some sums on the way, which no CPU's instructions do."""
    graph, inputs = DecoderGraph(codec).eval(), (codes[:, :, :8], torch.arange(4, 8).repeat(2, 1))
    lost, exact = [], graph(*inputs)
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_bfloat16: has)
        lost.append(noise(in_bfloat16(graph)(*inputs)[0], exact))
    assert lost[1] == pytest.approx(lost[0], rel=0.1)


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, FRAME, FRAME + 1, 3 * FRAME, 44100, 10 * FRAME - 1])
def test_encoder_gives_upstreams_codes(codec, samples) -> None:
    waveform = signal(2, samples, 44100)
    expected, _ = codec.encode(waveform[:, None])
    codes = EncoderGraph(codec).eval()(waveform, AT_ONCE)
    assert codes.shape == (2, 10, -(-samples // FRAME))
    assert torch.equal(codes, expected)


@torch.inference_mode()
def test_encoder_padding_changes_no_valid_frame(codec) -> None:
    graph = EncoderGraph(codec).eval()
    waveform = signal(1, 7 * FRAME, 44100)
    padded = torch.nn.functional.pad(waveform, (0, 25 * FRAME))
    assert torch.equal(graph(padded, AT_ONCE)[:, :, :7], graph(waveform, AT_ONCE))


@torch.inference_mode()
def test_encoder_is_causal_and_differs_between_voices(codec) -> None:
    codes = EncoderGraph(codec).eval()(signal(2, 20 * FRAME, 44100), AT_ONCE)
    assert (codes[0] != codes[1]).float().mean() > 0.1
    assert len(np.unique(codes)) > 8


def test_a_codec_that_cannot_stream_is_refused(codec) -> None:
    module = codec.quantizer.post_module
    window_size, module.window_size = module.window_size, None
    try:
        with pytest.raises(UnsupportedCodecError, match=r"post_module has window_size None"):
            DecoderGraph(codec)
    finally:
        module.window_size = window_size
