"""The codec by kernels: where it is fit, what it refuses, and that a server falls back."""

import json
import shutil
from itertools import combinations_with_replacement, pairwise
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from engine.codec import package as compiled
from engine.codec import session as decoder
from engine.codec.session import Decoder, runs
from engine.kernels import transformer as kernels
from ensemble.contract.tensors import ANY, Signature, Tensor
from ensemble.serving.kernel_file import load_compiled
from ensemble.serving.stand_in import ServedModel
from launch.server import Server
from support.raw import infer

INPUTS = ["codes", "new_frames"]
HERE = compiled.description(
    INPUTS, "bfloat16", (), codebooks=10, frames=256, samples_per_frame=2048
)


def test_what_is_made_here_is_fit_here() -> None:
    for precision, asked in combinations_with_replacement(compiled.PRECISIONS, 2):
        assert compiled.unfit({**HERE, "precision": precision}, INPUTS, asked) is None


@pytest.mark.parametrize(
    ("changed", "asked", "reason"),
    [
        (
            {"instructions": "amx_of_tomorrow"},
            "int8",
            "it was made for a CPU with amx_of_tomorrow: export it again here",
        ),
        ({}, "float32", "it computes in bfloat16, and float32 is asked for"),
        ({"precision": "int8"}, "bfloat16", "it computes in int8, and bfloat16 is asked for"),
        ({"precision": "fp8"}, "int8", "it computes in fp8, and int8 is asked for"),
        ({"inputs": "codes"}, "int8", "it takes 'codes', config.pbtxt says 'codes new_frames'"),
    ],
)
def test_what_another_machine_made_is_not(changed, asked, reason) -> None:
    assert (compiled.unfit({**HERE, **changed}, INPUTS, asked) or "").startswith(reason)


WINDOWS = {  # codebooks, frames, first new frame, new frames
    "too few codebooks": (8, 40, 0, 40),
    "more new frames than codes": (10, 5, 0, 9),
    "beyond the last position": (10, 3, 5000, 3),
    "too many frames": (10, 300, 0, 300),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_that_would_read_beyond_the_tables_are_refused(case) -> None:
    books, frames, first, new = WINDOWS[case]
    codes, numbers = np.zeros((1, books, frames)), np.arange(first, first + new)[None]
    with pytest.raises(ValueError, match="expected"):
        compiled.refuse_window(HERE, codes, numbers)
    compiled.refuse_window(HERE, np.zeros((1, 10, 12)), np.arange(8, 12)[None])


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([8, 8, 8], [[0, 1, 2]]),
        ([1] * 70, [list(range(64)), list(range(64, 70))]),
        ([43, 40, 43], [[0], [2], [1]]),
        ([24, 3, 24, 24, 3], [[0, 2], [3], [1, 4]]),
        ([100, 1], [[0], [1]]),
    ],
)
def test_a_batch_runs_in_pieces_of_rows_of_one_kind(new, expected) -> None:
    assert list(runs({i: (n, -1) for i, n in enumerate(new)})) == expected


@pytest.fixture(scope="module")
def with_kernels(repository, tiny_checkpoint, tmp_path_factory) -> Path:
    """The codec alone, laid out here."""
    from engine.codec.graphs import DecoderGraph, EncoderGraph
    from export.codec_kernels import export_decoder, export_encoder
    from export.parity import decoder_cases, encoder_cases
    from families.fish_s1.checkpoint import load_checkpoint, load_codec

    if fault := kernels.fault():
        pytest.skip(fault)
    copy = tmp_path_factory.mktemp("compiled") / "repository"
    for model in ("fish_encoder", "fish_decoder"):
        shutil.copytree(repository / model, copy / model)
    codec = load_codec(load_checkpoint(tiny_checkpoint))
    cases = decoder_cases(codec, (64,) * 10, 2048)
    folder = copy / "fish_decoder" / "1"
    (comparison,) = export_decoder(DecoderGraph(codec).eval(), cases, folder, print)
    assert comparison.passed
    cases = encoder_cases(codec, 44100, 2048)
    folder = copy / "fish_encoder" / "1"
    (comparison,) = export_encoder(EncoderGraph(codec).eval(), cases, folder, print)
    assert comparison.passed
    return copy


@pytest.mark.torch
@pytest.mark.server
def test_a_server_serves_it_or_falls_back(with_kernels, tmp_path) -> None:
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
        with Server(with_kernels, profile, log_path=log, environment=environment) as server:
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
@pytest.mark.parametrize("precision", ["full", "int8"])  # the encoder is always in float32
def test_the_encoder_in_any_chunks_gives_upstreams_codes(
    with_kernels, tiny_checkpoint, monkeypatch, precision
) -> None:
    import torch

    if precision == "int8" and not torch.cpu._is_vnni_supported():
        pytest.skip("int8 is for CPUs with VNNI")
    from export.parity import test_signal as signal
    from families.fish_s1.checkpoint import load_checkpoint, load_codec

    monkeypatch.setenv("FISH_SPEECH_PRECISION", precision)
    said: list[str] = []
    encode = load_compiled(encoder_in(with_kernels), said.append)
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
def test_the_decoders_audio_depends_neither_on_the_window_nor_on_company(
    with_kernels, monkeypatch
) -> None:
    monkeypatch.setenv("FISH_SPEECH_PRECISION", "half")
    inputs = Tensor("codes", "INT64", (ANY, ANY, ANY)), Tensor("new_frames", "INT64", (ANY, ANY))
    model = ServedModel(
        name="fish_decoder",
        artefact=with_kernels / "fish_decoder" / "1" / "model.pt",
        signature=Signature(inputs, (Tensor("audio", "FP32", (ANY, ANY)),)),
        batched=True,
        parameters={compiled.PARAMETER: compiled.FILE_NAME},
        graph_level=0,
        gpu=None,
    )
    run = load_compiled(model, print)
    assert run is not None

    def audio(codes: np.ndarray, begin: int, end: int) -> np.ndarray:
        numbers = np.tile(np.arange(begin, end), (len(codes), 1))
        return run({"codes": codes[:, :, :end], "new_frames": numbers})["audio"]

    company = np.random.default_rng(0).integers(0, 64, (4, 10, 210))
    whole = audio(company[2:3], 0, 210)
    for schedule in ((1, 2, 43, 210), (8, 24, 56, 120, 184, 210), (200, 210)):
        chunks = [audio(company, begin, end)[2] for begin, end in pairwise((0, *schedule))]
        np.testing.assert_array_equal(np.concatenate(chunks), whole[0])
    # A stream that ends with a window has one more, of padding alone.
    numbers = np.array([[24, 25], [-1, -1]])
    end = run({"codes": company[2:4, :, :26], "new_frames": numbers})["audio"]
    np.testing.assert_array_equal(end[0], whole[0, 24 * 2048 : 26 * 2048])
    assert not end[1].any()


def loaded(folder: Path) -> Decoder:
    """The decoder that lies there."""
    import torch

    extra = {compiled.DESCRIPTION: ""}
    path = folder / "fish_decoder" / "1" / compiled.FILE_NAME
    module = torch.jit.load(str(path), _extra_files=extra)
    return Decoder(module, json.loads(extra[compiled.DESCRIPTION]))


@pytest.mark.slow
@pytest.mark.torch
def test_what_is_known_of_a_history_changes_nothing(with_kernels) -> None:
    """Streams that take turns, one like another up to a point, longer than a window's history."""
    kept, forgetful = loaded(with_kernels), loaded(with_kernels)
    most = kept._history_frames
    streams = np.random.default_rng(0).integers(0, 64, (3, 10, most + 90))
    streams[1, :, :56] = streams[0, :, :56]
    limit = int(kept._described["frames"])
    ends = [8, 24, 56, 120, *range(184, min(most + 90, limit) + 1, 64)]
    windows = 0
    for begin, end in pairwise((0, *ends)):
        numbers = np.arange(begin, end)[None]
        for stream in streams:
            arrays = {
                "codes": stream[None, :, max(0, begin - most) : end],
                "new_frames": numbers,
            }
            np.testing.assert_array_equal(kept(arrays), forgetful(arrays))
            forgetful._states.clear()
            windows += begin > 0
    # Where two are alike one finds what the other has left, and that is then gone.
    assert kept.resumed == windows - 3 and forgetful.resumed == 0


@pytest.mark.slow
@pytest.mark.torch
def test_a_pause_that_repeats_is_decoded_at_its_own_place(with_kernels) -> None:
    """Its history is the same codes each time, and so are the last frames of unlike histories."""
    kept, forgetful = loaded(with_kernels), loaded(with_kernels)
    most = kept._history_frames
    codes = np.random.default_rng(0).integers(0, 64, (2, 10, 3 * most + 40))
    codes[:, :, 20:] = codes[:1, :, 20:21]

    def decode(row: int, begin: int, end: int) -> None:
        window = codes[None, row, :, max(0, begin - most) : end]
        arrays = {"codes": window, "new_frames": np.arange(begin, end)[None]}
        np.testing.assert_array_equal(kept(arrays), forgetful(arrays))
        forgetful._states.clear()

    decode(0, 0, 24)
    decode(1, 24, 32)  # other words before the pause
    decode(0, 24, 30 + most)
    assert kept.resumed == 1
    decode(0, 60 + most, 64 + most)  # the pause alone, elsewhere
    assert kept.resumed == 1
    decode(1, 30 + most, 60 + most)  # the pause alone, where the other stream is
    assert kept.resumed == 2


@pytest.mark.torch
@pytest.mark.parametrize("known", [True, False])
def test_windows_at_different_places_of_their_streams_share_a_batch(with_kernels, known) -> None:
    """Of unequal histories and lengths, below and beyond the reach of convolutions and window."""
    run = loaded(with_kernels)
    reach, limit = run._history_frames, int(run._described["frames"])
    starts = sorted({0, 1, 2, 8, 20, 21, 56, min(reach + 9, limit - 16)})
    codes = np.random.default_rng(0).integers(0, 64, (len(starts), 10, starts[-1] + 16))
    wholes = [
        run({"codes": row[None, :, : start + 16], "new_frames": np.arange(start + 16)[None]})
        for start, row in zip(starts, codes, strict=True)
    ]
    run._states.clear()
    if known:
        for start, row in zip(starts[1:], codes[1:], strict=True):
            run({"codes": row[None, :, :start], "new_frames": np.arange(start)[None]})
    history = max(min(reach, start) for start in starts)
    batch, numbers, valid = [], [], [16, 16, 7, 16, 3, 16, 16, 16]
    for start, row, new in zip(starts, codes, valid, strict=True):
        window = row[:, max(0, start - history) : start + new]
        batch.append(np.pad(window, ((0, 0), (history + new - window.shape[1], 16 - new))))
        numbers.append(np.where(np.arange(16) < new, start + np.arange(16), -1))
    audio = run({"codes": np.stack(batch), "new_frames": np.stack(numbers)})
    for heard, whole, start, new in zip(audio, wholes, starts, valid, strict=True):
        expected = whole[0, start * 2048 : (start + new) * 2048]
        np.testing.assert_array_equal(heard[: new * 2048], expected)
    assert run.resumed == (len(starts) - 1) * known


@pytest.mark.slow
@pytest.mark.torch
def test_what_is_kept_of_histories_is_bounded(with_kernels, monkeypatch) -> None:
    run = loaded(with_kernels)
    codes = np.random.default_rng(0).integers(0, 64, (5, 10, 20))
    for row in codes:
        run({"codes": row[None, :, :8], "new_frames": np.arange(8)[None]})
    one = run._bytes // 5
    assert one > 0 and len(run._states) == 5
    monkeypatch.setattr(decoder, "STATE_BYTES", 5 * one)
    for row in codes[:2:-1]:
        run({"codes": row[None, :, :20], "new_frames": np.arange(8, 20)[None]})
    assert run.resumed == 2 and len(run._states) <= 3
    assert run._bytes == sum(map(decoder._num_bytes, run._states.values())) <= 5 * one


def encoder_in(repository: Path) -> ServedModel:
    """As its config.pbtxt has it."""
    inputs = Tensor("waveform", "FP32", (ANY, ANY)), Tensor("chunk_frames", "INT64", (ANY, 1))
    return ServedModel(
        name="fish_encoder",
        artefact=repository / "fish_encoder" / "1" / "model.onnx",
        signature=Signature(inputs, (Tensor("codes", "INT64", (ANY, ANY, ANY)),)),
        batched=True,
        parameters={compiled.PARAMETER: compiled.FILE_NAME},
        graph_level=0,
        gpu=None,
    )
