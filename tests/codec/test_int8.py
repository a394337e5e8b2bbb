"""The decoder in 8 bits: exact in streams and batches, near float32, served only if asked for."""

import io
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from engine.codec.package import FILE_NAME, INT8_FILE_NAME, PARAMETER, machine_fault
from engine.kernels import cpu
from ensemble.contract.tensors import Signature, Tensor
from ensemble.serving.kernel_file import load_kernel_file
from ensemble.serving.stand_in.batch import Run
from ensemble.serving.stand_in.served_model import ServedModel

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from support.engine import needs_int8

FRAMES, SAMPLES = 60, 2048
INPUTS = (Tensor("codes", "INT64", (10, -1)), Tensor("new_frames", "INT64", (-1,)))
MODEL = ServedModel(
    name="fish_decoder",
    artefact=Path("model.pt"),
    signature=Signature(INPUTS, (Tensor("audio", "FP32", (-1,)),)),
    batched=True,
    parameters={PARAMETER: FILE_NAME},
    graph_level=0,
    gpu=None,
)


def loaded(folder: Path) -> tuple[Run | None, str]:
    """As a server does; with what it would log."""
    lines = []
    model = ServedModel(**{**vars(MODEL), "artefact": folder / "model.pt"})
    run = load_kernel_file(model, lines.append)
    return run, "\n".join(lines)


def audio(run: Run, codes: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Of the frames begin to end of codes (batch, 10, frames)."""
    numbers = np.tile(np.arange(begin, end), (len(codes), 1))
    return run({"codes": codes[:, :, :end], "new_frames": numbers})["audio"]


@pytest.fixture(scope="module")
def folder(codec, tmp_path_factory) -> Path:
    """A version folder with the tiny codec's decoder, laid out here."""
    from engine.codec.decoder import DecoderGraph
    from engine.codec.int8 import example_codes
    from export.codec_kernels import export_int8
    from export.parity import decoder_cases

    if fault := machine_fault():
        pytest.skip(fault)
    path = tmp_path_factory.mktemp("int8")
    cases = decoder_cases(codec, (64,) * 10, SAMPLES)
    graph = DecoderGraph(codec).eval()
    (comparison,) = export_int8(graph, example_codes(codec), cases, path, print)
    assert comparison.passed
    return path


@pytest.fixture
def int8(monkeypatch) -> None:
    """Ask for 8 bits, if need be on a machine where they are slower than float32."""
    monkeypatch.setattr(cpu, "instructions", lambda: {"avx2"})
    monkeypatch.setenv("FISH_SPEECH_PRECISION", "int8")


@pytest.mark.slow
def test_audio_depends_neither_on_the_window_nor_on_the_batch(folder, int8) -> None:
    run, log = loaded(folder)
    assert run is not None
    assert log == "fish_decoder: serving model-int8.pt, by kernels for this CPU"
    codes = np.random.default_rng(0).integers(0, 64, (1, 10, FRAMES))
    whole = audio(run, codes, 0, FRAMES)
    for schedule in ((1, 60), (8, 24, 56, 60), (30, 60), (*range(1, 9), 43, 60), (59, 60)):
        chunks = [audio(run, codes, begin, end) for begin, end in pairwise((0, *schedule))]
        np.testing.assert_array_equal(np.concatenate(chunks, axis=1), whole)
    batch = np.random.default_rng(1).integers(0, 64, (5, 10, FRAMES))
    for row in (0, 3):
        batch[row] = codes[0]
        for begin, end in ((0, 9), (9, 13), (37, 60)):
            heard = audio(run, batch, begin, end)[row]
            np.testing.assert_array_equal(heard, whole[0, begin * SAMPLES : end * SAMPLES])


@pytest.mark.slow
def test_it_is_served_only_where_it_is_asked_for(folder, monkeypatch) -> None:
    for precision in ("half", "full"):
        monkeypatch.setenv("FISH_SPEECH_PRECISION", precision)
        run, log = loaded(folder)
        assert run is None
        assert log.startswith("fish_decoder: serving model.pt, without kernels: there is no mod")
        assert "int8" not in log


def test_without_it_the_log_says_how_to_get_it(tmp_path, int8) -> None:
    run, log = loaded(tmp_path)
    assert run is None
    assert "there is no model-int8.pt: make export CHECKPOINT=DIR INT8=1" in log
    assert log.count("\n") == 0


def test_one_that_calls_operators_of_another_version_is_not_served(folder, tmp_path, int8) -> None:
    with (
        zipfile.ZipFile(folder / INT8_FILE_NAME) as now,
        zipfile.ZipFile(tmp_path / INT8_FILE_NAME, "w") as then,
    ):
        for entry in now.infolist():
            then.writestr(entry, now.read(entry).replace(b"voicereel.layers(", b"voicereel.gone("))
    run, log = loaded(tmp_path)
    assert run is None
    assert "model-int8.pt calls operators of another version: make export" in log
    assert log.count("\n") == 0


@pytest.mark.slow
@needs_int8
@torch.no_grad()
def test_the_demo_voice_loses_little(tmp_path) -> None:
    """Rounded by one voice, heard in another; by that voice alone it would be 8 dB."""
    from engine.codec.decoder import DecoderGraph
    from engine.codec.int8 import example_codes, input_ranges
    from engine.codec.on_kernels.decoder import KernelDecoder
    from export.parity import noise
    from families.fish_s1.checkpoint import load_checkpoint, load_codec
    from families.fish_s1.make_checkpoint import make_checkpoint

    make_checkpoint("demo", tmp_path / "demo", 0, False, False, None)
    codec = load_codec(load_checkpoint(tmp_path / "demo"))
    alice, bob, wide = example_codes(codec)
    graph = DecoderGraph(codec).eval()
    numbers = torch.arange(bob.shape[2])[None]
    int8 = KernelDecoder(graph, input_ranges(graph, [alice, wide])).eval()
    found, exact = (decoder(bob, numbers) for decoder in (int8, graph))
    assert 0 < noise(found, exact) <= 0.05  # 26 dB; it is 29


def test_an_export_says_why_there_is_none(monkeypatch) -> None:
    from export import run

    faults = {False: None, True: "this CPU (armv9) has no AVX2"}
    monkeypatch.setattr(run, "machine_fault", lambda int8=False: faults[int8])
    console = Console(file=io.StringIO(), width=200)
    assert run._kernels(run.Asked(kernels=True, int8=True), console) == ["float"]
    assert console.file.getvalue().strip() == (
        "export: no decoder in int8: this CPU (armv9) has no AVX2"
    )
