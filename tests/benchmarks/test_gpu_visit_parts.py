"""A GPU visit's parts: steps that go wrong, the pack, the report. None of it needs torch."""

import hashlib
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy.random
import pytest

from benchmarks.gpu_visit import packages, processes, report, step_tests, steps, unpack, wheels
from benchmarks.gpu_visit.results import OUTCOME, Results, read
from benchmarks.gpu_visit.steps import Runner, Step
from benchmarks.gpu_visit.visit import Visit

PLANTED = {
    "good": "results.put('sum', 2)",
    "raises": "results.put('so_far', 1)\n    raise ValueError('no luck\\nat all')",
    "dies": "import os\n    os._exit(9)",
    "skips": "from benchmarks.gpu_visit.visit import Skipped\n    raise Skipped('needs a moon')",
    # Deaf to SIGTERM, as a process in a driver's call may be, and with a child in another session.
    "hangs": (
        "import os, signal, subprocess, time\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    results.put('token', os.environ['GPU_VISIT_STEP'])\n"
        "    time.sleep(600)"
    ),
}


def planted(folder: Path) -> dict[str, Step]:
    found = {}
    for name, body in PLANTED.items():
        (folder / f"planted_{name}.py").write_text(f"def run(visit, results):\n    {body}\n")
        found[name] = Step(name, 60, f"planted_{name}")
    return found


def runner(folder: Path, seconds: float = 300) -> Runner:
    visit = Visit(folder / "out", folder, "cuda", True, "abc")
    visit.out.mkdir(exist_ok=True)
    found = steps.environment(visit)
    found["PYTHONPATH"] += f":{folder}"
    return Runner(visit, sys.executable, found, time.monotonic() + seconds, patience_s=0.5)


def test_a_step_that_goes_wrong_does_not_stop_the_others(tmp_path, capfd) -> None:
    mine, them = runner(tmp_path), planted(tmp_path)
    steps.run_all(mine, [them[name] for name in ("raises", "dies", "skips", "good")])
    found = read(mine.visit.out)
    outcomes = {name: (v[OUTCOME]["state"], v[OUTCOME].get("why")) for name, v in found.items()}
    assert outcomes == {
        "raises": ("failed", "ValueError: no luck"),
        "dies": ("failed", "its process ended with status 9"),
        "skips": ("skipped", "needs a moon"),
        "good": ("done", None),
    }
    assert (found["raises"]["so_far"], found["good"]["sum"]) == (1, 2)
    assert "  sum: 2\n  done," in capfd.readouterr().out
    assert "ValueError: no luck\nat all" in (mine.visit.out / "log.txt").read_text()


@pytest.mark.slow
def test_a_step_over_its_limit_ends_with_all_that_it_started(tmp_path) -> None:
    mine, them = runner(tmp_path), planted(tmp_path)
    limited = Step("hangs", 8, them["hangs"].module)
    steps.run_all(mine, [limited, them["good"]])
    found = read(mine.visit.out)
    assert found["hangs"][OUTCOME]["state"] == "over its limit"
    assert found["hangs"][OUTCOME]["why"] == "not done after 8 s"
    assert "processes_left" not in found["hangs"][OUTCOME]
    assert processes.started_by(found["hangs"]["token"]) == []
    assert found["good"]["sum"] == 2


def test_no_step_is_begun_when_time_is_over(tmp_path) -> None:
    mine = runner(tmp_path, seconds=1)
    outcome = mine.run(planted(tmp_path)["good"])
    assert (outcome["state"], outcome["why"]) == ("skipped", "no time is left")


def test_results_survive_a_line_that_was_cut_off(tmp_path) -> None:
    results = Results(tmp_path, "serve")
    results.put("streams", [1])
    results.put("streams", [1, 4])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"step": "serve", "name": "late", "va')
    assert read(tmp_path) == {"serve": {"streams": [1, 4]}}
    assert read(tmp_path / "nowhere") == {}


def wheel(path: Path, files: dict[str, bytes], programs: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if name in programs else 0o644) << 16
            archive.writestr(entry, content)
    return path


def test_a_wheel_is_repacked_without_what_a_visit_does_not_use(tmp_path) -> None:
    stubs = "pytriton/tritonserver/python_backend_stubs"
    wanted = {
        "pytriton/tritonserver/bin/tritonserver": b"server",
        f"{stubs}/3.12/stub": b"mine",
        "tritonclient-2.50.0.data/purelib/tritonclient/grpc.py": b"import grpc",
        "latest/contests.py": b"no tests",
    }
    unused = {
        f"{stubs}/3.11/stub": b"another Python's",
        "tritonclient-2.50.0.data/data/bin/perf_analyzer": b"program",
        "numpy/core/tests/test_umath.py": b"assert True",
        "nvidia_pytriton.libs/libpython3-4.13.so.1.0": b"library",
        "torch/stubs.pyi": b"x: int",
    }
    program = "pytriton/tritonserver/bin/tritonserver"
    source = wheel(tmp_path / "a.whl", wanted | unused, (program,))
    wheels.repacked(source, tmp_path / "b.whl", "3.12")
    with zipfile.ZipFile(tmp_path / "b.whl") as archive:
        assert {n: archive.read(n) for n in archive.namelist()} == wanted
        assert archive.getinfo(program).external_attr >> 16 == 0o755
    wheels.repacked(source, tmp_path / "c.whl", "3.12")
    assert (tmp_path / "b.whl").read_bytes() == (tmp_path / "c.whl").read_bytes()


def test_a_library_keeps_all_but_its_constants(tmp_path) -> None:
    library = Path(numpy.random.mtrand.__file__).read_bytes()
    emptied = wheels.without_tables(library)
    assert len(emptied) == len(library)
    differing = [i for i, (a, b) in enumerate(zip(library, emptied, strict=True)) if a != b]
    assert len(differing) > 1000
    begin, end = differing[0], differing[-1] + 1
    assert emptied[begin:end] == bytes(end - begin)
    assert (library[:begin], library[end:]) == (emptied[:begin], emptied[end:])
    with pytest.raises(ValueError, match="ELF"):
        wheels.without_tables(b"MZ")


def test_what_travels_is_what_is_pinned_and_not_left_out() -> None:
    pins = packages.pinned()
    travels = packages.packed(pins)
    assert travels["numpy"] == "1.26.4"
    assert travels.keys() >= {"nvidia-pytriton", "tritonclient", "fish-speech", "pytest"}
    assert not travels.keys() & {"torch", "geventhttpclient", "onnxruntime-gpu", "matplotlib"}
    assert travels.keys() | packages.LEFT_OUT.keys() == pins.keys()
    with pytest.raises(ValueError, match="names torch, which"):
        packages.packed({name: version for name, version in pins.items() if name != "torch"})


@pytest.fixture
def pack_folder(tmp_path) -> Path:
    from benchmarks.gpu_visit import pack  # torch, for the commit's sake

    folder = tmp_path / "pack"
    folder.mkdir()
    files = {
        "spoon/__init__.py": b"VALUE = 7\n",
        "spoon/bin/stir": b"#!/bin/sh\n",
        "spoon-1.2.data/purelib/fork.py": b"PRONGS = 4\n",
        "spoon-1.2.data/data/bin/knife": b"",
    }
    wheel(folder / "spoon-1.2-py3-none-any.whl", files, ("spoon/bin/stir",))
    pack.write_manifest(folder, f"3.{sys.version_info.minor}")
    return folder


@pytest.mark.torch
def test_a_pack_says_what_is_in_it(pack_folder) -> None:
    manifest = json.loads((pack_folder / unpack.MANIFEST).read_text())
    content = (pack_folder / "spoon-1.2-py3-none-any.whl").read_bytes()
    assert manifest["packages"] == [
        {
            "name": "spoon",
            "version": "1.2",
            "file": "spoon-1.2-py3-none-any.whl",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    assert manifest["mib"] == len(content) / 2**20
    assert "torch" in manifest["left_out"]


@pytest.mark.torch
def test_a_pack_is_unpacked_into_an_environment_of_its_own(pack_folder, tmp_path) -> None:
    python, commit = unpack.unpack(pack_folder, tmp_path / "python")
    assert commit == unpack.read_manifest(pack_folder)["commit"] != ""
    program = (
        "import fork, json, spoon, os, pytest, sys; "  # pytest: the machine's own
        "print(json.dumps([fork.PRONGS, spoon.VALUE, sys.prefix,"
        " os.access(os.path.dirname(spoon.__file__) + '/bin/stir', os.X_OK)]))"
    )
    said = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert said.stderr == ""
    assert json.loads(said.stdout) == [4, 7, str(tmp_path / "python"), True]
    assert not list((tmp_path / "python").rglob("knife"))


@pytest.mark.torch
def test_a_pack_that_is_not_whole_is_refused(pack_folder, tmp_path) -> None:
    (pack_folder / "spoon-1.2-py3-none-any.whl").write_bytes(b"PK")
    with pytest.raises(unpack.PackError, match=r"spoon-1\.2.* is missing or damaged"):
        unpack.unpack(pack_folder, tmp_path / "python")
    manifest = pack_folder / unpack.MANIFEST
    manifest.write_text(manifest.read_text().replace('"3.', '"2.'))
    with pytest.raises(unpack.PackError, match=r"is for Python 2\.\d+, this is 3"):
        unpack.read_manifest(pack_folder)
    manifest.unlink()
    with pytest.raises(unpack.PackError, match="make gpu-visit"):
        unpack.read_manifest(pack_folder)


def test_a_junit_file_is_summed_up(tmp_path) -> None:
    (tmp_path / "tests.xml").write_text(
        """<testsuites><testsuite>
        <testcase name="test_norms[float32-96]"/><testcase name="test_norms[float16-96]"/>
        <testcase name="test_greedy[3]"><failure message="another choice\nat frame 2"/></testcase>
        <testcase name="test_seed"><skipped message="needs a GPU"/></testcase>
        <testcase name="" classname="tests.lm.test_gpu"><skipped message="collection skipped">
        Skipped: needs a GPU</skipped></testcase>
        </testsuite></testsuites>"""
    )
    assert step_tests.summary(tmp_path / "tests.xml") == {
        "passed": {"test_norms": 2},
        "failed": {"test_greedy[3]": "another choice at frame 2"},
        "skipped": {"test_seed": "needs a GPU", "tests.lm.test_gpu": "Skipped: needs a GPU"},
    }


FOUND = {
    "card": {
        "card": {"name": "NVIDIA X"}, "driver": "580", "commit": "abc",
        "versions": {"torch": "2.11", "triton": None},
        "rates": {"read_gb_per_s": 3000.0, "tflops": {"fp16": 700.0}},
        OUTCOME: {"state": "done", "seconds": 9.0},
    },
    "serve": {
        "workload": {"audio_s": 30.0, "wall_s": 0.51, "rtf": 0.017, "stages_s": {"codec": 0.37}},
        "streams": [
            {"streams": 16, "ttfa_s_p50": 0.26, "ttfa_s_p95": 0.3, "audio_s_per_s": 41.0,
             "underruns": 2, "underrun_s": 0.1, "llama_batch": 15.5, "decoder_batch": 7.3,
             "batches": {"fish_decoder": {"8": 5, "16": 1}}},
        ],
        OUTCOME: {"state": "over its limit", "seconds": 150.0, "why": "not done after 150 s"},
    },
    "onnx": {OUTCOME: {"state": "skipped", "seconds": 1.0, "why": "needs a | b"}},
    "llama": {"steps": []},
}  # fmt: skip


def test_a_report_has_what_was_measured_and_why_the_rest_was_not(tmp_path) -> None:
    text = report.tables(FOUND, Visit(tmp_path, tmp_path, "cuda", False))
    assert text.startswith("# NVIDIA X\n\ns1mini, random weights; driver 580; torch 2.11; ")
    assert "3,000 GB/s; matrix products, TFLOP/s: fp16 700." in text
    assert "| gpu profile | 30 | 0.51 | 0.017 | 0.37 | – |" in text
    assert "| 16 | 0.26 | 0.3 | 41 | 2 | 0.1 | 15.5 | 7.3 | 8: 5, 16: 1 |" in text
    assert "| serve | over its limit | 150 | not done after 150 s |" in text
    assert "| onnx | skipped | 1 | needs a / b |" in text
    assert "| llama | cut off |" in text
    assert "## Prefill" not in text


def test_a_line_has_the_figures_that_visits_are_compared_by(tmp_path) -> None:
    line = report.headline(FOUND, Visit(tmp_path, tmp_path, "cuda", False))
    assert (line["card"], line["driver"], line["commit"]) == ("NVIDIA X", "580", "abc")
    assert (line["workload_wall_s"], line["exact"]) == (0.51, None)
    assert line["streams"] == {"16": {"ttfa_s_p50": 0.26, "audio_s_per_s": 41.0, "underruns": 2}}
    assert line["outcomes"]["llama"] is None
    json.dumps(line)
