"""`voicereel capacity`, and the table that is made from its data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from support.command_line import run
from voicereel import InvalidRequest
from voicereel.capacity import between, machines, plan, reported_machine

PROJECT = Path(__file__).resolve().parents[2]


def test_between_measured_values() -> None:
    assert between(3, (1, 2, 4), (10, 20, 40)) == 30
    assert (between(0, (1, 2), (10, 20)), between(9, (1, 2), (10, 20))) == (10, 20)


def test_streams_in_real_time_are_those_whose_step_is_shorter_than_a_frame() -> None:
    cpu, gpu = machines()["cpu-2-cores-int8"], machines()["h200-half"]
    assert (cpu.real_time_streams(), gpu.real_time_streams()) == (1, 54)
    assert cpu.step_s(1) == pytest.approx(0.944 * 2048 / 44_100)
    assert gpu.step_s(54) <= gpu.frame_s < gpu.step_s(55)
    assert gpu.real_time_streams(0.26) == 16 and cpu.real_time_streams(0.2) == 0


def test_replicas_for_streams_and_for_requests() -> None:
    found = plan("h200-half", streams=200, headroom=0.7, spare=1)
    assert found.replicas == 7  # 200 / (54 x 0.7) = 5.3, and one spare
    asked = plan("h200-half", requests_per_s=100, audio_s=5, headroom=0.5, spare=0)
    # Each is heard for 5 s, however soon its frames are made.
    assert asked.streams == 100 * 5
    assert asked.replicas == -(-asked.streams // 27)
    frames_per_s = 100 * 5 / (2048 / 44_100) / asked.replicas
    assert frames_per_s < 0.55 * 54 / machines()["h200-half"].step_s(54)  # of what 54 streams make
    assert plan("h200-half", streams=0.1, spare=0).replicas == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"machine": "abacus", "streams": 1}, "expected one of: cpu-2-cores-int8, h200-half"),
        ({"machine": "h200-half"}, "either streams or requests a second"),
        ({"machine": "h200-half", "streams": 1, "requests_per_s": 1}, "not both"),
        ({"machine": "h200-half", "streams": -1}, "streams is -1, expected a positive number"),
        ({"machine": "h200-half", "streams": float("nan")}, "streams is nan"),
        ({"machine": "h200-half", "streams": 1, "headroom": 2}, "headroom is 2, expected at most"),
        ({"machine": "cpu-2-cores-int8", "streams": 1, "target_p95_s": 0.2}, "0.45 s even alone"),
    ],
)
def test_what_cannot_be_planned(given: dict, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        plan(**given)


def test_the_command() -> None:
    code, out, _ = run("capacity", "--streams", "200", "--machine", "h200-half")
    assert code == 0 and out.startswith("12 replicas for 200.0 streams at once: first audio within")
    assert "- 1 spare" in out and "commit f6ed2bb" in out
    code, out, _ = run("capacity", "--streams", "200", "--machine", "h200-half", "--json")
    assert (code, json.loads(out)["replicas"]) == (0, 12)
    code, out, err = run("capacity", "--streams", "200", "--machine", "none")
    assert (code, out) == (2, "") and "expected one of" in err


def test_the_pages_table_is_the_data() -> None:
    page = (PROJECT / "docs" / "capacity.md").read_text("utf-8")
    for name, machine in machines().items():
        for n, rtf, p50, p95 in zip(
            machine.streams, machine.rtf_of_all, machine.first_p50_s, machine.first_p95_s,
            strict=True,
        ):  # fmt: skip
            step_ms = 1000 * machine.step_s(n)
            row = f"| `{name}` | {n} | {rtf:g} | {step_ms:.1f} | {p50:g} | {p95:g} |"
            assert row in page, f"docs/capacity.md lacks {row}"


def report(folder: Path, *rows: str) -> Path:
    path = folder / "load.csv"
    head = "model,closed,level,error,rtf,ttfa_s_p50,ttfa_s_p95,share_without_gap_over_100_ms"
    path.write_text("\n".join([head, *rows, ""]))
    facts = {"command": "make load", "commit": "abc", "machine": "a box"}
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def test_a_load_report_is_a_machine(tmp_path: Path) -> None:
    path = report(
        tmp_path, "fish_tts_stream,True,4,,0.2,0.3,0.4,0.9",
        "fish_tts_stream,True,1,,0.5,0.1,0.2,1",
        "fish_tts_stream,True,8,,0.1,0.5,0.6,0.5", "fish_tts_stream,False,1.5,,0.5,1,1,0.1",
        "fish_tts_stream,True,16,left out,,,,", "fish_tts,True,1,,0.4,1,1,",
    )  # fmt: skip
    served = reported_machine(path)
    assert (served.streams, served.slots, served.what) == ((1, 4, 8), 8, "a box")
    assert served.rtf_of_all == (0.5, 0.2, 0.1) and served.first_p95_s == (0.2, 0.4, 0.6)
    # By the steps 8 are in real time; but only of 1 or 2 do 95 % of the answers have no gap.
    assert served.real_time_streams() == 2
    assert replace(served, without_gap=()).real_time_streams() == 8
    code, out, _ = run("capacity", "--report", str(path), "--streams", "10", "--spare", "0")
    assert code == 0 and out.startswith("15 replicas for 10.0 streams at once")
    assert "one replica on a box: make load, commit abc" in out
    assert out.endswith("- the checkpoint, texts and lengths of that load; others differ\n")


def test_the_report_of_this_project_is_one() -> None:
    served = reported_machine(PROJECT / "benchmarks" / "results" / "report" / "load.csv")
    known = machines()["cpu-2-cores-int8"]
    assert served.streams == known.streams
    assert served.rtf_of_all == pytest.approx(known.rtf_of_all, rel=0.02)


def test_what_is_no_load_report_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InvalidRequest, match=r"is no load report .* make load REPOSITORY=DIR"):
            reported_machine(path)
    with pytest.raises(InvalidRequest, match=r"is no load report .KeyError: .model."):
        reported_machine(PROJECT / "benchmarks" / "load" / "texts.tsv")
    with pytest.raises(InvalidRequest, match="no closed loop of fish_tts_stream"):
        reported_machine(report(tmp_path))
    slow = report(tmp_path, "fish_tts_stream,True,1,,1.5,0.1,0.2,0.2")
    code, _, err = run("capacity", "--report", str(slow), "--streams", "1")
    assert code == 2 and "does not play even one stream without a pause" in err
