"""`history_frames` is exactly what can be heard: one frame less is audible, one more is not.

On the tiny codec with weights of its own: every convolution listens mostly to its oldest input and
the transformer to its whole window equally, so that the outermost frame is felt. With random
weights it is not, and a history that is too short passes unnoticed.
"""

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine.codec.decoder import DecoderGraph
from engine.codec.layers import CausalConv, CausalTransposedConv, ConvNeXt, Snake
from engine.codec.transformer import WindowTransformer
from engine.kernels import build

pytestmark = pytest.mark.torch
FRAME, NEW, START = 2048, 2, 60
AUDIBLE = 1e-3  # of samples in [-1, 1]


def listen_to_the_oldest(graph: DecoderGraph) -> None:
    """Give the layers weights with which every frame of the history is heard."""
    generator = torch.Generator().manual_seed(0)

    def random(*extents: int) -> Any:
        return torch.randn(extents, generator=generator)

    for layer in graph.modules():
        if isinstance(layer, CausalConv):
            outputs, inputs, taps = layer.conv.weight.shape
            weight = 0.1 * random(outputs, inputs, taps) / (inputs * taps) ** 0.5
            weight[..., 0] = random(outputs, inputs) / inputs**0.5
            layer.conv.weight.data = weight
        elif isinstance(layer, CausalTransposedConv):
            conv: Any = layer.conv
            inputs, outputs, taps = conv.weight.shape
            weight = 0.1 * random(inputs, outputs, taps) / inputs**0.5
            weight[..., -1] = random(inputs, outputs) / inputs**0.5
            conv.weight.data = weight
        elif isinstance(layer, ConvNeXt):
            for linear in (layer.widen, layer.narrow):
                linear.weight.data = random(*linear.weight.shape) / linear.weight.shape[1] ** 0.5
        elif isinstance(layer, Snake):
            layer.alpha.data.fill_(0.1)
        elif isinstance(layer, WindowTransformer):
            for block in layer.layers:
                attention: Any = block.attention
                dim = attention.wo.weight.shape[0]
                attention.wqkv.weight.data[: 2 * dim] = 0.0  # each position counts equally
                attention.wqkv.weight.data[2 * dim :] = 4 * torch.eye(dim)
                attention.wo.weight.data = 4 * torch.eye(dim)


@pytest.fixture(scope="module")
def graph(codec) -> DecoderGraph:
    graph = DecoderGraph(copy.deepcopy(codec)).eval()
    listen_to_the_oldest(graph)
    return graph


@pytest.fixture(scope="module", params=["graph", "kernels"])
def run(graph, request) -> Any:
    """Each of the decoders that are served from that graph."""
    if request.param == "graph":
        return graph
    if fault := build.fault():
        pytest.skip(fault)
    from engine.codec.on_kernels.decoder import KernelDecoder

    return KernelDecoder(graph).eval()


@pytest.fixture(scope="module")
def codes() -> Any:
    return torch.randint(0, 64, (1, 10, START + NEW), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def audio(run: Any, codes: Any, history: int) -> Any:
    return run(codes[:, :, START - history :], torch.arange(START, START + NEW)[None])


def test_the_history_is_that_of_the_layers(graph) -> None:
    """2 layers x 15 positions of the transformer, and 10 frames of the convolutions."""
    assert graph.history_frames == 2 * 15 + 10


@torch.inference_mode()
def test_no_frame_of_the_history_can_be_missed(graph, run, codes) -> None:
    history = graph.history_frames
    whole = run(codes, torch.arange(START + NEW)[None])[:, -NEW * FRAME :]
    assert 0.05 < whole.std() < 0.9
    assert (audio(run, codes, history) - whole).abs().max() <= 1e-4
    assert (audio(run, codes, history - 1) - whole).abs().max() > AUDIBLE


def test_its_oldest_frame_is_heard_and_the_one_before_is_not(graph, run, codes) -> None:
    """In windows of one shape, so that not even rounding differs."""
    history = graph.history_frames
    before = audio(run, codes, history + 1)
    for age, is_heard in ((history, True), (history + 1, False)):
        other = codes.clone()
        other[:, :, START - age] = (other[:, :, START - age] + 32) % 64
        difference = (audio(run, other, history + 1) - before).abs().max()
        assert difference > AUDIBLE if is_heard else difference == 0.0


def test_only_the_first_of_the_new_frames_hears_the_oldest(graph, run, codes) -> None:
    other = codes.clone()
    history = graph.history_frames
    other[:, :, START - history] = (other[:, :, START - history] + 32) % 64
    difference = (audio(run, other, history) - audio(run, codes, history)).abs()
    assert difference[:, :FRAME].max() > AUDIBLE
    assert difference[:, FRAME:].max() == 0.0


def test_what_is_exported_says_the_same(repository, codec) -> None:
    from ensemble.contract.facts import Facts

    facts = Facts.load(repository / "fish_llama" / "1")
    assert facts.history_frames == DecoderGraph(codec).history_frames == 40
