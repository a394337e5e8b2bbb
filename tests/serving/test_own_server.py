"""Where a model finds its own server."""

import pytest

from ensemble.serving.own_server import grpc_url, url_of


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([], "127.0.0.1:8001"),
        (["--model-repository=x", "--grpc-port=9001", "--http-port", "1"], "127.0.0.1:9001"),
        (["--grpc-port", "9001", "--grpc-address", "10.0.0.3"], "10.0.0.3:9001"),
        (["--grpc-address=[::]", "--grpc-port=9001"], "[::1]:9001"),
        (["--grpc-address=[::1]", "--grpc-port=9001"], "[::1]:9001"),
        (["--grpc-address=0.0.0.0", "--grpc-use-ssl=false"], "127.0.0.1:8001"),
    ],
)
def test_command_line(arguments: list[str], url: str) -> None:
    assert url_of(arguments) == url


@pytest.mark.parametrize("arguments", [["--allow-grpc=false"], ["--grpc-use-ssl=true"]])
def test_what_cannot_be_reached_says_what_to_set(arguments: list[str]) -> None:
    with pytest.raises(RuntimeError, match="Set VOICEREEL_GRPC_URL"):
        url_of(arguments)


def test_the_variable_goes_first() -> None:
    assert grpc_url({"VOICEREEL_GRPC_URL": "triton:1"}) == "triton:1"


def test_no_server_is_said() -> None:
    with pytest.raises(RuntimeError, match="not found"):
        grpc_url({})
