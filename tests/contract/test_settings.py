"""The environment: every variable checked, wrong values named, the same on both sides."""

from pathlib import Path

import pytest

from ensemble.contract.settings import server_settings
from voicereel.errors import ConfigurationError
from voicereel.settings import listed, read_settings, suspicious_variables

EIGHT = {
    "VOICEREEL_USE_OPTIMIZED": True,
    "FISH_SPEECH_COMPILE": True,
    "VOICEREEL_PARALLEL_SYNTHESIS": True,
    "VOICEREEL_MAX_WORKERS": 4,
    "VOICEREEL_BATCH_SIZE": 0,
    "FISH_SPEECH_DEVICE": None,
    "FISH_SPEECH_PRECISION": "half",
    "VOICEREEL_LLAMA_THREADS": 0,
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [*EIGHT, "VOICEREEL_URL", "VOICEREEL_CHECKPOINT", "VOICEREEL_VOICES"]:
        monkeypatch.delenv(variable, raising=False)


def test_defaults() -> None:
    found = listed(read_settings())
    assert {s.variable: s.value for s in found[:8]} == EIGHT
    assert {s.origin for s in found} == {"default"}
    assert [s.value for s in found[8:10]] == ["127.0.0.1:8001", None]


def test_what_the_environment_says_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICEREEL_USE_OPTIMIZED", "FALSE")
    monkeypatch.setenv("VOICEREEL_MAX_WORKERS", "15")
    monkeypatch.setenv("FISH_SPEECH_DEVICE", " CPU ")
    monkeypatch.setenv("VOICEREEL_VOICES", "voices")
    found = read_settings()
    assert (found.use_optimized, found.max_workers, found.device) == (False, 15, "cpu")
    assert found.voices == Path("voices")
    origins = {s.variable: s.origin for s in listed(found)}
    assert [v for v, origin in origins.items() if origin == "environment"] == [
        "VOICEREEL_USE_OPTIMIZED",
        "VOICEREEL_MAX_WORKERS",
        "FISH_SPEECH_DEVICE",
        "VOICEREEL_VOICES",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("VOICEREEL_USE_OPTIMIZED", "maybe", "true or false"),
        ("FISH_SPEECH_COMPILE", "", "true or false"),
        ("VOICEREEL_PARALLEL_SYNTHESIS", "yes", "true or false"),
        ("VOICEREEL_MAX_WORKERS", "0", "1 to 1024"),
        ("VOICEREEL_MAX_WORKERS", "4.0", "1 to 1024"),
        ("VOICEREEL_BATCH_SIZE", "1025", "0 (automatic) to 1024"),
        ("FISH_SPEECH_DEVICE", "gpu", "cpu or cuda"),
        ("FISH_SPEECH_PRECISION", "float16", "half, full, int8, int4, bf16 or fp16"),
        ("VOICEREEL_URL", "http://host:8001", "HOST:PORT"),
    ],
)
def test_wrong_values_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as raised:
        read_settings()
    assert str(raised.value) == f"{variable} is {value!r}, expected {expected}"


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FISH_SPEECH_DEVICE", "tpu")
    monkeypatch.setenv("VOICEREEL_MAX_WORKERS", "many")
    with pytest.raises(ConfigurationError, match=r"MAX_WORKERS is 'many'.*DEVICE is 'tpu'"):
        read_settings()


def test_a_misspelt_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICEREEL_MAX_WORKER", "8")
    monkeypatch.setenv("VOICEREEL_SOMETHING_ELSE", "8")
    assert suspicious_variables() == [
        "VOICEREEL_MAX_WORKER is read by no program: did you mean VOICEREEL_MAX_WORKERS?"
    ]


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("VOICEREEL_BATCH_SIZE", ["0", "16", " 7 ", "1024", "1025", "-1", "4.0", "1_0", "", "x"]),
        ("VOICEREEL_LLAMA_THREADS", ["0", "2", "1025", "-1", "1_0", "", "x"]),
        ("VOICEREEL_QUEUE_S", ["0", " 30", "86400", "86401", "-1", "1.5", "", "x"]),
        ("VOICEREEL_DRAIN_S", ["0", " 30", "86400", "86401", "-1", "1.5", "", "x"]),
        (
            "FISH_SPEECH_PRECISION",
            ["half", "Full ", "bf16", "fp16", "int8", "int4", "float16", "", "1"],
        ),
        ("VOICEREEL_REAL_TIME", ["off", "Wait ", "refuse", "", "on", "1"]),
        ("FISH_SPEECH_DEVICE", ["cpu", "CPU", "", "gpu", "cuda:0", "tpu"]),
        ("FISH_SPEECH_COMPILE", ["true", "FALSE", "1", " 0 ", "yes", "on", "t", "2", ""]),
        ("VOICEREEL_FOLD_TEXT", ["true", "FALSE", "1", " 0 ", "yes", "on", "t", "2", ""]),
    ],
)
def test_the_server_takes_the_same_values(
    monkeypatch: pytest.MonkeyPatch, variable: str, values: list[str]
) -> None:
    for value in values:
        monkeypatch.setenv(variable, value)
        accepted = []
        for read, refusal in ((read_settings, ConfigurationError), (server_settings, ValueError)):
            try:
                read()
                accepted.append(True)
            except refusal:
                accepted.append(False)
        assert accepted[0] == accepted[1], f"{variable}={value!r}: client, server {accepted}"
