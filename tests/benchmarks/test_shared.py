"""What the benchmarks share: the workload, the checkpoints, the last line of stdout."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer

from benchmarks import prepared, report, workload
from benchmarks.measured import Run, medians, timed
from benchmarks.prepared import named_or_endless
from voicereel import Audio


def test_the_script_repeats_its_texts_and_the_speakers_take_turns() -> None:
    script = workload.script(17)
    assert [segment["speaker_id"] for segment in script[:3]] == ["alice", "bob", "alice"]
    assert len({segment["text"] for segment in script}) == len(workload.TEXTS) == 15
    assert script[15:] == script[:2]


def test_a_pass_is_timed_and_medians_are_taken(monkeypatch) -> None:
    clock = iter([1.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    run = timed(lambda: Audio([0.0] * 44_100, 44_100, "stop"))
    assert (run.wall_s, run.audio_s, run.rtf) == (3.0, 1.0, 3.0)
    runs = [Run(wall_s, 2.0, 0.0) for wall_s in (1.0, 9.0, 3.0)]
    assert medians(runs) == {"audio_s": 2.0, "wall_s": 3.0, "rtf": 1.5}


def test_checkpoint_and_repository_belong_together(tmp_path) -> None:
    assert named_or_endless(tmp_path, tmp_path, True, "half") == (tmp_path, tmp_path)
    with pytest.raises(typer.BadParameter, match="Give both, or neither"):
        named_or_endless(tmp_path, None, True, "half")


def test_two_that_need_the_same_repository_make_it_once(tmp_path, monkeypatch) -> None:
    """`make demo` beside `make up`, or two processes of the tests."""
    made: list[str] = []

    def export(command: str, *arguments: object) -> None:
        made.append(command)
        time.sleep(0.2)  # the other comes meanwhile
        (tmp_path / ("checkpoints/a" if command == "make-checkpoint" else "build/a-repository")
         ).mkdir(parents=True)  # fmt: skip

    monkeypatch.setattr(prepared, "ROOT", tmp_path)
    monkeypatch.setattr(prepared, "export_command", export)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: prepared.prepared("tiny", "a"), range(2)))
    assert made == ["make-checkpoint", "run"]
    assert folders[0] == folders[1]


def test_the_last_line_is_json_and_a_record_is_kept(tmp_path, monkeypatch, capsys) -> None:
    machine = pytest.importorskip("benchmarks.machine", reason="torch is not installed")
    monkeypatch.setattr(report, "HISTORY", tmp_path / "history.jsonl")
    report.finish({"wall_s": 1.5})
    assert not report.HISTORY.exists()
    report.finish({"wall_s": 1.5, "machine": {"is": "fast"}}, record=True)
    plain, recorded = map(json.loads, capsys.readouterr().out.splitlines())
    assert plain == {"wall_s": 1.5, "machine": machine.describe(), "commit": machine.commit()}
    assert recorded["machine"] == {"is": "fast"}
    assert json.loads(report.HISTORY.read_text()) == recorded
