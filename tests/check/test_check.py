"""The contract, every config.pbtxt and the artefacts agree; and differences are found."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensemble.check import repository as check
from ensemble.check.__main__ import main
from ensemble.check.profiles import write_profiles
from ensemble.contract.tensors import MODELS
from support import toys

PROJECT = Path(__file__).resolve().parents[2]
COMMITTED = PROJECT / "model_repository"


def test_the_committed_repository_agrees() -> None:
    assert check.differences(COMMITTED) == []


@pytest.mark.slow
@pytest.mark.torch
def test_exported_artefacts_agree(repository) -> None:
    assert {path.name for path in check.exported(repository)} == {"model.onnx", "model.pt"}
    assert check.differences(repository) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The committed repository without artefacts, to damage."""
    ignored = shutil.ignore_patterns("*.onnx", "*.pt", "*.json", "*.tiktoken", "__pycache__")
    return Path(shutil.copytree(COMMITTED, tmp_path / "copy", ignore=ignored))


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("fish_tts/config.pbtxt", '"seed"', '"sed"', "inputs are text,"),
        ("fish_tts/config.pbtxt", "TYPE_UINT64", "TYPE_INT64", "seed is optional INT64 [1]; in"),
        ("fish_tts/config.pbtxt", "dims: [ 1 ] }", "dims: [ 2 ] }", "text is BYTES [2]; in"),
        ("fish_tts/config.pbtxt", ", optional: true", "", "seed is UINT64 [1]; in"),
        ("fish_tts/config.pbtxt", "max_batch_size: 1", "", "max_batch_size is not given"),
        ("fish_tts/config.pbtxt", "instance_group [", "#", "instance_group is not given"),
        ("fish_tts/config.pbtxt", 'backend: "python"', "", "backend is '', expected one of"),
        ("fish_tts/config.pbtxt", "input [", "inputs [", 'has no field named "inputs"'),
        ("fish_llama/configs/cpu.pbtxt", "TYPE_BOOL", "TYPE_INT32", "is_last is INT32 [1]; in"),
        (
            "fish_tts_stream/config.pbtxt",
            '      input_map { key: "prefix_length" value: "prefix_length" }\n',
            "",
            "step fish_llama does not map input prefix_length",
        ),
        (
            "fish_tts_stream/config.pbtxt",
            'value: "window_codes" }\n      input_map',
            'value: "num_samples" }\n      input_map',
            "step fish_decoder: num_samples is INT32 [1], but codes is INT64 [-1, -1]",
        ),
        (
            "fish_tts_stream/config.pbtxt",
            'output_map { key: "audio" value: "audio" }',
            'output_map { key: "sound" value: "audio" }',
            "step fish_decoder maps output sound, which that model does not have",
        ),
        (
            "fish_tts_stream/config.pbtxt",
            'input_map { key: "seed" value: "seed" }',
            'input_map { key: "seed" value: "sed" }',
            "step fish_llama takes sed, which no earlier step gives",
        ),
        ("fish_encode/config.pbtxt", '"fish_encoder"', '"fish_decoder"', "does not map input"),
        (
            "fish_tts_stream/config.pbtxt",
            '      input_map { key: "codes" value: "codes" }\n',
            "",
            "input codes goes nowhere",
        ),
        (
            "fish_clone_stream/config.pbtxt",
            '      input_map { key: "reference_codes" value: "codes" }\n',
            "",
            "step fish_prompt does not map input codes",
        ),
    ],
)
def test_a_planted_difference_is_found(copy, file, old, new, expected) -> None:
    path = copy / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if new != "#" else text.split(old)[0])
    found = check.differences(copy)
    assert any(expected in difference for difference in found), found
    assert all(difference.startswith(f"{path}: ") for difference in found)


def test_stray_and_missing_folders_are_found(copy) -> None:
    (copy / "shared").mkdir()
    (copy / "fish_tts/assets").mkdir()
    shutil.rmtree(copy / "fish_encode/1")
    shutil.rmtree(copy / "fish_reference")
    (copy / "fish_llama/1/model.py").unlink()
    assert check.differences(copy) == [
        f"{copy}/shared: not in ensemble/contract/tensors.py",
        f"{copy}/fish_reference: missing",
        f"{copy}/fish_encode: no version folder; git drops empty ones, so keep a 1/.gitkeep",
        *[f"{copy}/fish_llama/1/model.py: missing"] * 4,  # config.pbtxt and three profiles
        f"{copy}/fish_tts/assets: neither a version nor configs",
    ]


def test_an_artefact_that_differs_is_found(copy) -> None:
    toys.doubling(copy / "fish_encoder/1/model.onnx")
    (copy / "fish_decoder/1/model.onnx").write_bytes(b"not a graph")
    found = check.differences(copy)
    encoder = f"{copy}/fish_encoder/1/model.onnx: "
    reason = "the graph's inputs are ['x'], the config's ['chunk_frames', 'waveform']"
    assert f"{encoder}{reason} ({copy}/fish_encoder/config.pbtxt)" in found
    assert f"{encoder}{reason} ({copy}/fish_encoder/configs/cpu.pbtxt)" in found
    assert any(f"{copy}/fish_decoder/1/model.onnx: cannot be read: " in d for d in found)


def test_the_command_line(copy) -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    good = CliRunner().invoke(app, ["--repository", str(copy)])
    assert good.exit_code == 0
    assert good.stdout.startswith(f"check: {len(MODELS)} models, ")
    assert "artefacts (none exported)" in good.stdout
    (copy / "stray").mkdir()
    bad = CliRunner().invoke(app, ["--repository", str(copy)])
    assert bad.exit_code == 1
    assert bad.stdout == f"{copy}/stray: not in ensemble/contract/tensors.py\n"
    missing = CliRunner().invoke(app, ["--repository", "/nowhere"])
    assert (missing.exit_code, missing.stdout) == (1, "")


def test_profiles_are_what_their_config_gives(copy) -> None:
    changed = copy / "fish_decoder/config.pbtxt"
    changed.write_text(changed.read_text().replace("[ 4, 8, 16 ]", "[ 4, 8, 12 ]"))
    found = check.differences(copy)
    assert [line.partition(": ")[0] for line in found] == [
        f"{copy}/fish_decoder/configs/{name}.pbtxt" for name in ("cpu", "gpu", "gpu_multi")
    ]
    assert all("python -m ensemble.check --write-profiles" in line for line in found)
    write_profiles(copy)
    assert check.differences(copy) == []
    for name in ("cpu", "gpu", "gpu_multi"):
        assert "[ 4, 8, 12 ]" in (copy / f"fish_decoder/configs/{name}.pbtxt").read_text()


def test_no_window_overtakes_another(copy) -> None:
    """Else two decoders would mix up numbers and audio, see fish_decoder's config.pbtxt."""
    configs = list((copy / "fish_decoder").rglob("*.pbtxt"))
    assert len(configs) == 4
    assert all("  preserve_ordering: true\n" in path.read_text() for path in configs)


def test_nothing_waits_for_company_while_a_gpu_is_idle(copy) -> None:
    """Of the models that run on GPUs, in their profiles; a CPU gains by the wait."""
    waits = {
        path.stem: re.findall(r"max_queue_delay_microseconds: (\d+)", path.read_text())
        for model in ("fish_decoder", "fish_encoder")
        for path in (copy / model / "configs").glob("*.pbtxt")
    }
    assert waits == {"cpu": waits["cpu"], "gpu": ["0"], "gpu_multi": ["0"]}
    assert waits["cpu"] != ["0"]


def test_a_missing_profile_and_a_config_without_a_place_are_found(copy) -> None:
    (copy / "fish_llama/configs/gpu.pbtxt").unlink()
    config = copy / "fish_encoder/config.pbtxt"
    config.write_text(config.read_text().replace("KIND_AUTO is a GPU", "KIND_AUTO may be a GPU"))
    assert check.differences(copy) == [
        f"{copy}/fish_llama/configs/gpu.pbtxt: is not what config.pbtxt and "
        "ensemble/check/profiles.py give. Write it with: python -m ensemble.check --write-profiles",
        *[
            f"{config}: has 0 places for '# Profile: {about}', expected 1"
            for about in (
                "no GPU.",
                "one GPU, shared with the other stages.",
                "every GPU has an instance.",
            )
        ],
    ]


@pytest.mark.parametrize("model", ["fish_encoder", "fish_decoder"])
def test_onnx_on_a_gpu_is_exact(model: str) -> None:
    """ONNX Runtime's native backend has TF32 on, unless the config says otherwise."""
    folder = COMMITTED / model
    for path in (folder / "config.pbtxt", *folder.glob("configs/*.pbtxt")):
        text = path.read_text()
        on_a_gpu = 'backend: "onnxruntime"' in text and "KIND_CPU" not in text
        assert ('key: "use_tf32" value: "0"' in text) == on_a_gpu, path


def test_on_a_cpu_no_shape_of_a_window_is_compiled() -> None:
    """The native libtorch 2.5 takes seconds for each new one."""
    text = (COMMITTED / "fish_decoder/configs/cpu.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in text


@pytest.mark.slow
@pytest.mark.torch
def test_files_that_are_not_those_exported(repository, tmp_path) -> None:
    """Native backends do not look, so this does."""
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    assert check.differences(copy) == []
    path = copy / "fish_prompt" / "1" / "tokenizer.tiktoken"
    path.write_bytes(path.read_bytes() + b"\n")
    (found,) = check.differences(copy)
    assert found.startswith(f"fish_prompt: {path} is not the file that was exported")


def test_windows_of_a_stream_leave_several_decoders_in_order() -> None:
    """Else an ensemble gives the audio of one window to another (Triton 24.10)."""
    folder = COMMITTED / "fish_decoder"
    configs = [folder / "config.pbtxt", *(folder / "configs").glob("*.pbtxt")]
    assert len(configs) == 4
    for config in configs:
        batching = config.read_text("utf-8").split("dynamic_batching {")[1].split("\n}")[0]
        assert "\n  preserve_ordering: true\n" in batching, config
