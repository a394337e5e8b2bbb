"""Parameters of a request: those that somebody reads, and no others."""

import json

import pytest

from ensemble.contract.parameters import parameters_of, timeout_us
from ensemble.contract.tensors import FRONT_DOORS, MODELS


def test_front_doors_are_models() -> None:
    assert set(FRONT_DOORS) <= MODELS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_what_triton_and_its_clients_send_is_known(model: str) -> None:
    sent = {
        "id": "x", "timeout": 5, "priority": 1, "sequence_id": 3, "sequence_start": True,
        "sequence_end": True, "binary_data_output": False, "headers": "x",
        "triton_enable_empty_final_response": True, "cancel_token": "ab",
    }  # fmt: skip
    assert parameters_of(model, json.dumps(sent)) == sent
    assert parameters_of(model, "") == {}


@pytest.mark.parametrize(
    ("model", "name", "hint"),
    [
        ("fish_tts", "max_tokens", "Did you mean max_new_tokens?"),
        ("fish_tts_stream", "temprature", "Did you mean temperature?"),
        ("fish_clone", "reference_txt", "Did you mean reference_text?"),
        ("fish_encode", "chunk_size", "Did you mean chunk_size_s?"),
        ("fish_cancel", "token", "Did you mean cancel_token?"),
        ("fish_tts", "timeout_s", "Did you mean timeout?"),
        ("fish_prompt", "Text", "Did you mean text?"),
        ("fish_prompt", "max_tokens", "Did you mean max_new_tokens?"),
        ("fish_reference", "max_tokens", "Did you mean max_new_tokens?"),
        ("fish_llama", "zzz", "no parameter 'zzz'. Known are prompt, "),
    ],
)
def test_what_nobody_reads_is_refused_by_name(model: str, name: str, hint: str) -> None:
    with pytest.raises(ValueError, match="there is no parameter") as raised:
        parameters_of(model, json.dumps({"id": "1", name: 5}))
    assert repr(name) in str(raised.value) and hint in str(raised.value)


def test_an_option_among_the_parameters_is_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="temperature came as a parameter, expected it as an inp"):
        parameters_of("fish_tts", '{"temperature": 0}')


def test_headers_that_the_operator_lets_through_are_known() -> None:
    sent = '{"X-Tenant": "a", "traceparent": "b"}'
    assert parameters_of("fish_tts", sent, ["x-.*", "traceparent"])
    with pytest.raises(ValueError, match="'traceparent'"):
        parameters_of("fish_tts", sent, ["x-.*"])


def test_a_timeout_that_triton_left_among_the_parameters() -> None:
    assert timeout_us(0, {"timeout": 7}) == 7
    assert timeout_us(9, {"timeout": 7}) == 9
    assert timeout_us(0, {}) == 0
    for wrong in ("7", 1.5, -1, True, None):
        with pytest.raises(ValueError, match="expected whole microseconds"):
            timeout_us(0, {"timeout": wrong})
