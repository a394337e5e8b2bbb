"""The codec on kernels as it is served: chunks equal the whole, and a server falls back."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from engine.codec.package import FILE_NAME, PARAMETER
from engine.kernels import cpu
from ensemble.contract.tensors import ANY, Signature, Tensor
from ensemble.serving.kernel_file import load_kernel_file
from ensemble.serving.stand_in.served_model import ServedModel
from launch.server import Server
from support.native import stand_ins
from support.raw import infer


@stand_ins
@pytest.mark.torch
@pytest.mark.server
def test_a_server_serves_it_or_falls_back(kernel_repository, tmp_path) -> None:
    codes = np.random.default_rng(0).integers(0, 64, (10, 40))
    window = {"codes": codes, "new_frames": np.arange(33, 40)}
    samples = np.random.default_rng(1).normal(0, 0.1, 90 * 2048 + 7)
    recording = {"waveform": samples, "chunk_frames": 40}
    audio, codes_of, log = [], [], tmp_path / "log"
    for profile, allowed, said in (
        (None, "true", "serving model-kernels.pt, by kernels for this CPU"),
        ("cpu", "true", "serving model-kernels.pt, by kernels for this CPU"),
        ("cpu", "false", "without kernels: FISH_SPEECH_COMPILE is false"),
    ):
        environment = {"FISH_SPEECH_COMPILE": allowed, "FISH_SPEECH_PRECISION": "half"}
        with Server(kernel_repository, profile, log_path=log, environment=environment) as server:
            whole = infer(server, "fish_decoder", codes=codes, new_frames=np.arange(40))["audio"]
            part = infer(server, "fish_decoder", **window)["audio"]
            with pytest.raises(InferenceServerException):
                beyond = np.arange(5000, 5003)
                infer(server, "fish_decoder", codes=codes[:, :3], new_frames=beyond)
            again = infer(server, "fish_decoder", **window)["audio"]
            padded = np.where(np.arange(33, 40) < 38, window["new_frames"], -1)
            most = infer(server, "fish_decoder", codes=codes, new_frames=padded)["audio"]
            codes_of.append(infer(server, "fish_encoder", **recording)["codes"])
        served = [line for line in log.read_text().splitlines() if said in line]
        assert "fish_encoder: " in "".join(served) and "fish_decoder: " in "".join(served)
        assert len(whole) == 40 * 2048
        assert np.abs(part - whole[33 * 2048 :]).max() <= 1e-4
        np.testing.assert_array_equal(part, again)
        assert len(most) == len(part)
        assert np.abs(most - part)[: 5 * 2048].max() <= 1e-4
        audio.append(whole)
    # With matrix units not quite float32; random weights make the most of it.
    assert np.linalg.norm(audio[0] - audio[2]) <= 1e-3 * np.linalg.norm(audio[2])
    assert codes_of[0].shape == (10, 91)
    for codes in codes_of[1:]:
        np.testing.assert_array_equal(codes, codes_of[0])


@pytest.mark.slow
@pytest.mark.torch
# The encoder is always in float32.
@pytest.mark.parametrize("precision", ["full", pytest.param("int8", marks=pytest.mark.long)])
def test_the_encoder_in_any_chunks_gives_upstreams_codes(
    kernel_repository, tiny_checkpoint, monkeypatch, precision
) -> None:
    import torch

    from export.parity import test_signal as signal
    from families.fish_s1.checkpoint import load_checkpoint, load_codec

    monkeypatch.setattr(cpu, "instructions", lambda: {"avx2"})  # the setting, not the CPU
    monkeypatch.setenv("FISH_SPEECH_PRECISION", precision)
    said: list[str] = []
    encode = load_kernel_file(encoder_in(kernel_repository), said.append)
    assert said == ["fish_encoder: serving model-kernels.pt, by kernels for this CPU"]
    assert encode is not None
    codec = load_codec(load_checkpoint(tiny_checkpoint))
    for rows, samples in ((1, 1), (1, 150 * 2048 + 7), (3, 70 * 2048)):
        waveform = signal(rows, samples, 44100)
        with torch.inference_mode():
            expected = codec.encode(waveform[:, None])[0].numpy()
        for chunk in (0, 7, 40, 64, 2**60):
            sizes = np.full((rows, 1), chunk * rows)
            arrays = {"waveform": waveform.numpy(), "chunk_frames": sizes}
            np.testing.assert_array_equal(encode(arrays)["codes"], expected)
    one = np.ones((1, 1), np.int64)
    with pytest.raises(ValueError, match=r"waveform has \d+ samples, expected 1 to \d+"):
        encode({"waveform": np.zeros((1, 8193 * 2048), np.float32), "chunk_frames": one})


@pytest.mark.slow
@pytest.mark.torch
def test_the_decoders_audio_depends_neither_on_the_window_nor_on_the_batch(
    kernel_repository, monkeypatch
) -> None:
    monkeypatch.setenv("FISH_SPEECH_PRECISION", "half")
    inputs = Tensor("codes", "INT64", (ANY, ANY, ANY)), Tensor("new_frames", "INT64", (ANY, ANY))
    model = ServedModel(
        name="fish_decoder",
        artefact=kernel_repository / "fish_decoder" / "1" / "model.pt",
        signature=Signature(inputs, (Tensor("audio", "FP32", (ANY, ANY)),)),
        batched=True,
        parameters={PARAMETER: FILE_NAME},
        graph_level=0,
        gpu=None,
    )
    run = load_kernel_file(model, print)
    assert run is not None

    def audio(codes: np.ndarray, begin: int, end: int) -> np.ndarray:
        numbers = np.tile(np.arange(begin, end), (len(codes), 1))
        return run({"codes": codes[:, :, :end], "new_frames": numbers})["audio"]

    batch = np.random.default_rng(0).integers(0, 64, (4, 10, 210))
    whole = audio(batch[2:3], 0, 210)
    for schedule in ((1, 2, 43, 210), (8, 24, 56, 120, 184, 210), (200, 210)):
        chunks = [audio(batch, begin, end)[2] for begin, end in pairwise((0, *schedule))]
        np.testing.assert_array_equal(np.concatenate(chunks), whole[0])
    # A stream that ends with a window has one more, of padding alone.
    numbers = np.array([[24, 25], [-1, -1]])
    end = run({"codes": batch[2:4, :, :26], "new_frames": numbers})["audio"]
    np.testing.assert_array_equal(end[0], whole[0, 24 * 2048 : 26 * 2048])
    assert not end[1].any()


def encoder_in(repository: Path) -> ServedModel:
    """As its config.pbtxt has it."""
    inputs = Tensor("waveform", "FP32", (ANY, ANY)), Tensor("chunk_frames", "INT64", (ANY, 1))
    return ServedModel(
        name="fish_encoder",
        artefact=repository / "fish_encoder" / "1" / "model.onnx",
        signature=Signature(inputs, (Tensor("codes", "INT64", (ANY, ANY, ANY)),)),
        batched=True,
        parameters={PARAMETER: FILE_NAME},
        graph_level=0,
        gpu=None,
    )
