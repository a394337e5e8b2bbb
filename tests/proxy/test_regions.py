"""Errors that name the server's shared memory do not tell that name to callers."""

import grpc
import pytest

from support.fake_server import Refusal
from support.proxied import text_request

REGION = "voicereel_30b7edaa_d073aa34-cb98-4832-ba48-31608c3b9e94"
WORDS = f"Failed to increase the shared memory pool size for key '{REGION}' to 1048576 bytes"


def test_no_door_names_the_region(stub, upstream) -> None:
    def full(_):
        raise Refusal(grpc.StatusCode.INTERNAL, WORDS)
        yield

    upstream.answer = full
    told = [reply.error_message for reply in stub.ModelStreamInfer(iter([text_request()]))]
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(text_request())
    told.append(error.value.details())
    assert len(told) == 2
    for words in told:
        assert words == WORDS.replace(REGION, "x" * len(REGION))
