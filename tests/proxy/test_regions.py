"""Errors that name the server's shared memory do not tell that name to callers."""

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.fake_server import Refusal

REGION = "voicereel_30b7edaa_d073aa34-cb98-4832-ba48-31608c3b9e94"
WORDS = f"Failed to increase the shared memory pool size for key '{REGION}' to 1048576 bytes"


def test_no_door_names_the_region(door, upstream, upstream_http) -> None:
    def full(_):
        raise Refusal(grpc.StatusCode.INTERNAL, WORDS)
        yield

    upstream.answer = full
    asked = service_pb2.ModelInferRequest(model_name="fish_tts")
    asked.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    asked.raw_input_contents.append(b"\5\0\0\0whole")
    with grpc.insecure_channel(door.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        told = [reply.error_message for reply in stub.ModelStreamInfer(iter([asked]))]
        try:
            stub.ModelInfer(asked)
        except grpc.RpcError as error:
            told.append(error.details())
    assert len(told) == 2
    for words in told:
        assert words == WORDS.replace(REGION, "x" * len(REGION))
