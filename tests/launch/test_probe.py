"""Which models of a server give no sign of life, as the supervisor asks them."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from launch.probe import PROBED, knock
from support.fake_server import FakeServer, Refusal

REFUSED = "invalid request: there is no parameter 'probe'"
ANSWERS = dict.fromkeys(PROBED, REFUSED) | {
    "fish_encoder": "[request id: <id_unknown>] Exceeds maximum queue size",
    "fish_decoder": "onnx runtime error 2: Got invalid dimensions for input: codes",  # native
}
DEAD = "Failed to process the request(s) for model 'x_0_0', message: Stub process is not healthy."
GONE = "Request for unknown model: 'x' is not found"


class Refusing(FakeServer):
    """Refuses each model's requests in its words; "" never answers."""

    def _outputs(self, request) -> Iterator[dict]:
        self.requests.append(request)
        if not (words := self.words[request.model_name]):
            time.sleep(3)
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, words)


@pytest.fixture
def server() -> Iterator[Refusing]:
    with Refusing() as found:
        found.words = dict(ANSWERS)
        yield found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in PROBED:
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").touch()
    return tmp_path


def test_each_model_is_asked_and_any_refusal_is_a_sign_of_life(server, repository) -> None:
    assert knock(repository, server.url, 5) == ""
    assert sorted(asked.model_name for asked in server.requests) == sorted(PROBED)
    assert all(asked.parameters["probe"].bool_param for asked in server.requests)


@pytest.mark.parametrize("words", [DEAD, GONE])
@pytest.mark.parametrize("model", ["fish_llama", "fish_decoder", "fish_reference"])
def test_a_dead_model_is_named(server, repository, model, words) -> None:
    server.words[model] = words
    assert knock(repository, server.url, 5) == f"{model}: {words}"


def test_a_model_that_never_answers_is_named(server, repository) -> None:
    server.words["fish_llama"] = ""
    begin = time.monotonic()
    assert knock(repository, server.url, 0.5).startswith("fish_llama: no answer: ")
    assert time.monotonic() - begin < 2


def test_what_the_repository_lacks_is_not_asked(server, tmp_path) -> None:
    (tmp_path / "fish_tts").mkdir()
    (tmp_path / "fish_tts/config.pbtxt").touch()
    assert knock(tmp_path, server.url, 5) == ""
    assert [asked.model_name for asked in server.requests] == ["fish_tts"]


def test_no_server(repository) -> None:
    assert "no answer: " in knock(repository, "127.0.0.1:1", 5)
