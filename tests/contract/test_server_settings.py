"""The server's own variables: parsed once, wrong values named with what was expected."""

import pytest

from ensemble.contract.settings import ServerSettings, server_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert server_settings({}) == ServerSettings("", "half", True, 0, 0, "")


def test_every_variable_has_its_field() -> None:
    environment = {
        "FISH_SPEECH_DEVICE": " CPU ",
        "FISH_SPEECH_PRECISION": "Full",
        "FISH_SPEECH_COMPILE": "0",
        "VOICEREEL_BATCH_SIZE": " 3",
        "VOICEREEL_LLAMA_THREADS": "2",
        "VOICEREEL_GRPC_URL": "triton:1",
        "VOICEREEL_FOLD_TEXT": "FALSE",
    }
    expected = ServerSettings("cpu", "full", False, 3, 2, "triton:1", fold_text=False)
    assert server_settings(environment) == expected


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("FISH_SPEECH_DEVICE", "tpu", "cpu or cuda"),
        ("FISH_SPEECH_PRECISION", "int3", "half, full, bf16, fp16, int8 or int4"),
        ("FISH_SPEECH_COMPILE", "perhaps", "true or false"),
        ("VOICEREEL_FOLD_TEXT", "no", "true or false"),
        ("VOICEREEL_BATCH_SIZE", "many", "0 (automatic) to 1024"),
        ("VOICEREEL_LLAMA_THREADS", "all", "0 (automatic) to 1024"),
    ],
)
def test_wrong_values_are_named(variable: str, value: str, expected: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        server_settings({variable: value})
    assert str(raised.value) == f"{variable} is {value!r}, expected {expected}."
