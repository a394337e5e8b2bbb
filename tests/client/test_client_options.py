"""Options: one table, from which keywords, tensors, flags and script files follow."""

import json
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import np_to_triton_dtype

from ensemble.contract import options as contract
from support.command_line import run
from support.fake_server import FakeServer, inputs_of, whole
from voicereel import InvalidRequest, VoiceFeatures
from voicereel.options import OPTIONS, Options
from voicereel.transport.request import speech_request

VOICE = VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id")


def test_options_are_those_of_the_contract() -> None:
    ours = [(n, np_to_triton_dtype(o.dtype), o.low, o.high) for n, o in OPTIONS.items()]
    assert ours == [(o.name, o.dtype, o.low, o.high) for o in contract.OPTIONS]
    assert list(Options.__annotations__) == list(OPTIONS)


def test_none_is_the_servers_default() -> None:
    assert speech_request("text", None, None, {"seed": None, "top_p": None})[1].keys() == {"text"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tempo": 1}, TypeError, "no option tempo; there are seed, temperature"),
        ({"seed": 1.5}, TypeError, "float"),
        ({"seed": -1}, InvalidRequest, "seed is -1, expected 0 to 18446744073709551615"),
        ({"max_new_tokens": 2**31}, InvalidRequest, "max_new_tokens is 2147483648"),
        ({"temperature": "hot"}, ValueError, "hot"),
        ({"temperature": 2.1}, InvalidRequest, "temperature is 2.1, expected 0 to 2"),
        ({"top_p": float("nan")}, InvalidRequest, "top_p is nan, expected 0 to 1"),
    ],
)
def test_impossible_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        speech_request("text", None, None, options)


@pytest.mark.parametrize("way", ["say", "script", "script file"])
def test_every_option_reaches_the_server(fake: FakeServer, tmp_path: Path, way: str) -> None:
    fake.answer = lambda _: iter([whole(np.zeros(10))])
    asked = {name: option.high for name, option in OPTIONS.items()}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    segment = {"speaker_id": "A", "text": "Hi", "options": asked if way == "script file" else {}}
    (tmp_path / "play.json").write_text(json.dumps([segment]))
    VOICE.save(tmp_path / "a.npz")
    arguments = {
        "say": ["say", "Hi", *flags],
        "script": ["script", tmp_path / "play.json", "--voice", f"A={tmp_path / 'a.npz'}", *flags],
        "script file": ["script", tmp_path / "play.json", "--voice", f"A={tmp_path / 'a.npz'}"],
    }[way]
    code, _, err = run(*arguments, "-o", tmp_path / "a.wav", "--url", fake.url)
    assert code == 0, err
    got = inputs_of(fake.requests[0])
    assert {name: got[name].item() for name in OPTIONS} == asked


def test_a_flag_out_of_range_is_refused_before_the_network(tmp_path: Path) -> None:
    arguments = ["say", "Hi", "-o", tmp_path / "a.wav", "--url", "127.0.0.1:1"]
    code, _, err = run(*arguments, "--temperature", 9)
    assert (code, err) == (2, "InvalidRequest: temperature is 9, expected 0 to 2\n")


def test_help_has_every_option_with_its_range() -> None:
    for command in ("say", "script"):
        shown = " ".join(run(command, "--help")[1].replace("│", " ").split())
        assert [n for n, o in OPTIONS.items() if f"({o.range})" not in shown] == []
        assert [n for n in OPTIONS if f"--{n.replace('_', '-')}" not in shown] == []
