"""`voicereel capacity`, and the table that is made from its data."""

import json
from pathlib import Path

import pytest

from support.command_line import run
from voicereel import InvalidRequest
from voicereel.capacity import between, machines, plan

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
