"""gRPC through the proxy: what is good goes on unchanged, the rest is answered in words."""

import json
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.fake_server import Refusal
from support.launched import wait_until
from support.proxied import logged, proxied, text_request, timed
from support.raw import Stream, infer, tensors
from voicereel import Client

pb = service_pb2
LARGE = 5 * 2**20


def refused(call) -> tuple[str, str]:
    """Status and words of a call that is refused, within a second."""
    with pytest.raises(grpc.RpcError) as error:
        _, took_s = timed(call)
        assert took_s < 1
    return error.value.code().name, error.value.details()


def test_a_good_request_goes_on_unchanged(stub, upstream) -> None:
    asked = text_request()
    answer = stub.ModelInfer(asked)
    assert upstream.requests == [asked]
    assert [o.name for o in answer.outputs] == ["audio", "finish_reason", "sample_rate"]


def test_a_request_for_speech_gets_a_token_to_be_taken_back_by(stub, upstream) -> None:
    asked = text_request()
    del asked.parameters["cancel_token"]
    stub.ModelInfer(asked)
    (came,) = upstream.requests
    assert len(bytes.fromhex(came.parameters.pop("cancel_token").string_param)) == 16
    assert came == asked


def test_metadata_ids_and_deadlines_go_on(stub, upstream) -> None:
    metadata = (("traceparent", "00-1"), ("triton_grpc_error", "true"), ("some-bin", b"\0\1"))
    answers = list(
        stub.ModelStreamInfer(iter([text_request("fish_tts_stream")]), metadata=metadata)
    )
    assert len(answers) == 1
    came = dict(upstream.metadata)
    assert came["traceparent"] == "00-1" and came["some-bin"] == b"\0\1"
    assert "triton_grpc_error" not in came  # of which tritonserver 2.51 dies


def test_the_servers_errors_keep_their_status_and_words(stub, upstream) -> None:
    def answer(inputs):
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "fish_prompt: invalid request: no words")
        yield

    upstream.answer = answer
    words = "fish_prompt: invalid request: no words"
    assert refused(lambda: stub.ModelInfer(text_request())) == ("INVALID_ARGUMENT", words)
    (answer,) = stub.ModelStreamInfer(iter([text_request("fish_tts_stream")]))
    assert answer.error_message == words
    typed = (("triton_grpc_error", "true"),)
    call = stub.ModelStreamInfer(iter([text_request("fish_tts_stream")]), metadata=typed)
    assert refused(lambda: list(call)) == ("INVALID_ARGUMENT", words)


@pytest.mark.parametrize(
    ("model", "name", "dtype", "shape", "raw", "words"),
    [
        ("fish_tts", "text", "BYTES", [-1, -1], b"\1\0\0\0a", r"has shape [-1, -1], expected axes"),
        ("fish_tts", "text", "BYTES", [2**40, 1], b"", "expected axes from 0 to"),
        ("fish_tts", "text", "BYTES", [0, 0], b"", "text has shape [0, 0], expected [1, 1]"),
        ("fish_tts", "text", "BYTES", [2, 1], b"\0\0\0\0" * 2, "expected [1, 1]"),
        ("fish_tts", "text", "BYTES", [1] * 9, b"\0\0\0\0", "9 axes, expected 8"),
        ("fish_tts", "text", "BYTES", [1, 1], b"\7\0\0\0abc", "the lengths inside 'text' do not"),
        ("fish_tts", "text", "BYTES", [1, 1], b"\1\0\0\0a\1\0\0\0b", "the lengths inside"),
        ("fish_tts", "text", "INT32", [1, 1], b"\0\0\0\0", "text is INT32, expected BYTES"),
        ("fish_tts", "text", "STRINGS", [1, 1], b"", "has datatype 'STRINGS', expected one of"),
        ("fish_tts", "words", "BYTES", [1, 1], b"\0\0\0\0", "there is no input 'words', expected"),
        ("fish_checkpoint", "x", "BYTES", [1, 1], b"\0\0\0\0", "no input 'x', it takes none"),
        ("fish_encode", "reference_audio", "FP32", [1, 0], b"", "[1, any] and no axis 0"),
        ("fish_encode", "reference_audio", "FP32", [1, 3], b"1234", "came with 4 bytes, but FP32"),
        ("another", "x", "INT64", [-1, -4], b"\0" * 32, "'x' has shape [-1, -4]"),
        ("another", "x", "BYTES", [70_000], b"\0" * 280_000, "expected 65536 at most"),
    ],
)
def test_tensors_that_the_server_should_not_see(
    stub, upstream, model, name, dtype, shape, raw, words
) -> None:
    asked = pb.ModelInferRequest(model_name=model)
    asked.inputs.add(name=name, datatype=dtype, shape=shape)
    asked.raw_input_contents.append(raw)
    status, said = refused(lambda: stub.ModelInfer(asked))
    assert status == "INVALID_ARGUMENT" and said.startswith(f"{model}: invalid request: ")
    assert words in said
    (answer,) = stub.ModelStreamInfer(iter([asked]))
    assert answer.error_message == said
    assert upstream.requests == []


def test_values_that_come_one_by_one_are_counted(stub, upstream) -> None:
    asked = pb.ModelInferRequest(model_name="fish_tts")
    asked.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    asked.inputs[0].contents.bytes_contents.append(b"whole")
    assert refused(lambda: stub.ModelInfer(asked))[0] == "UNKNOWN"  # it has got to the fake
    asked.inputs[0].contents.bytes_contents.append(b"more")
    assert "has 2 values, its shape 1" in refused(lambda: stub.ModelInfer(asked))[1]
    asked.raw_input_contents.append(b"\0\0\0\0")
    assert "has its values twice" in refused(lambda: stub.ModelInfer(asked))[1]
    asked.raw_input_contents.append(b"\0\0\0\0")
    assert "2 raw_input_contents, expected 1" in refused(lambda: stub.ModelInfer(asked))[1]


def test_a_name_comes_once_and_what_is_needed_comes(stub) -> None:
    asked = text_request()
    asked.inputs.append(asked.inputs[0])
    asked.raw_input_contents.append(asked.raw_input_contents[0])
    assert "'text' came twice" in refused(lambda: stub.ModelInfer(asked))[1]
    assert "input text is missing" in refused(
        lambda: stub.ModelInfer(pb.ModelInferRequest(model_name="fish_tts"))
    )[1]  # fmt: skip


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_shared_memory_is_refused(stub, where) -> None:
    asked = text_request()
    if where == "outputs":
        asked.outputs.add(name="audio")
    getattr(asked, where)[0].parameters["shared_memory_region"].string_param = "theirs"
    asked.ClearField("raw_input_contents") if where == "inputs" else None
    status, words = refused(lambda: stub.ModelInfer(asked))
    assert status == "INVALID_ARGUMENT" and "--open shared-memory" in words


@pytest.mark.parametrize("timeout", [-1, -(2**63)])
def test_a_timeout_is_a_time(stub, timeout) -> None:
    asked = text_request()
    asked.parameters["timeout"].int64_param = timeout
    assert "expected whole microseconds from 0" in refused(lambda: stub.ModelInfer(asked))[1]


def test_messages_that_would_grow_in_a_parser(stub, door, upstream) -> None:
    many = text_request()
    many.inputs.extend([pb.ModelInferRequest.InferInputTensor()] * 10_000)
    assert "more than 8192 fields" in refused(lambda: stub.ModelInfer(many))[1]
    with grpc.insecure_channel(door.grpc_url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for garbage in (b"\xff" * 20, b"\x2a\x7f", b"\x0b" * 9, b"\x1f\x8b\0\0", b"\x78\x9cxx"):
            assert refused(lambda m=garbage: call(m))[0] == "INVALID_ARGUMENT"
    assert upstream.requests == []


@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_packed_messages_are_unpacked_up_to_the_limit(door, upstream, how) -> None:
    with grpc.insecure_channel(door.grpc_url, compression=how) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = text_request()
        stub.ModelInfer(asked)
        assert upstream.requests == [asked]
        asked.raw_input_contents[0] = bytes(12 * 2**20)
        assert refused(lambda: stub.ModelInfer(asked)) == (
            "RESOURCE_EXHAUSTED",
            "proxy: the request is larger than 4 MiB. Send less, or raise --max-body-mib.",
        )


def test_a_message_above_the_limit_is_refused(stub) -> None:
    asked = text_request()
    asked.raw_input_contents[0] = bytes(LARGE)
    assert refused(lambda: stub.ModelInfer(asked))[0] == "RESOURCE_EXHAUSTED"


def test_our_client_and_tritons_stream_through_it(door, upstream) -> None:
    with Client(door.grpc_url) as client:
        chunks = list(client.stream("Good morning, Bob."))
        assert [c.index for c in chunks] == [0, 1] and client.ready()
    stream = Stream(door)
    for number in range(3):
        stream.send("fish_tts_stream", f"r{number}", text="Hello.")
    wait_until(lambda: stream.answers.qsize() == 6)
    assert {stream.answers.get()[0].get_response().model_name for _ in range(6)} == {""}
    stream.close()
    assert infer(door, "fish_tts", text="whole")["audio"].tolist() == [1.0] * 10
    with triton.InferenceServerClient(door.grpc_url) as client:
        assert client.is_server_ready() and client.is_model_ready("fish_tts")
        result = client.infer("fish_tts", tensors(text="whole"), compression_algorithm="gzip")
        assert result.as_numpy("audio").shape == (1, 10)
    wait_until(lambda: door.proxy.load.in_flight == 0)


def test_a_refused_request_leaves_its_stream_to_the_others(door) -> None:
    stream = Stream(door)
    stream.send("fish_tts_stream", "good", text="Hello.")
    stream.client.async_stream_infer("fish_decoder", tensors(codes=[1, 2]), request_id="inner")
    stream.send("fish_tts_stream", "better", text="Hello.")
    wait_until(lambda: stream.answers.qsize() == 5)
    errors = [error for _, error in (stream.answers.get() for _ in range(5)) if error]
    assert len(errors) == 1 and "fish_decoder: this model is a part of others" in str(errors[0])
    stream.close()


def test_a_deadline_takes_the_request_back(door, stub, upstream) -> None:
    gone = threading.Event()
    upstream.answer = lambda inputs: iter([gone.wait(10) and {}])
    assert refused(lambda: stub.ModelInfer(text_request(), timeout=0.3))[0] == "DEADLINE_EXCEEDED"
    wait_until(lambda: upstream.taken_back, 1)
    gone.set()


def test_a_slow_reader_holds_the_server_back_and_is_ended(upstream, upstream_http) -> None:
    made = []

    def answer(inputs):
        for _ in range(2000):
            made.append(1)
            yield {"audio": np.zeros((1, 50_000), np.float32)}  # 0.2 MB

    upstream.answer = answer
    with (
        proxied(
            server_grpc=upstream.url, server_http=upstream_http.url, probe_s=0, slow_reader_s=0.5
        ) as door,
        grpc.insecure_channel(door.grpc_url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([text_request("fish_tts_stream")]))
        next(call)
        assert upstream.cancelled.wait(5)
        assert len(made) < 200  # 40 MB: what lies in sockets and windows, and no more
        assert refused(lambda: list(call)) == ("ABORTED", "proxy: nothing was read for 0.5 s")
        wait_until(lambda: door.proxy.load.in_flight == 0)


def test_a_line_for_each_request_of_a_stream(door, stub, caplog) -> None:
    asked = [text_request("fish_tts_stream", model_version=v) for v in ("1", "2")]
    bad = text_request("fish_llama")
    with caplog.at_level("INFO", "voicereel.proxy"):
        assert len(list(stub.ModelStreamInfer(iter([*asked, bad])))) == 3
    lines = [json.loads(message) for message in logged(caplog)]
    outcomes = sorted((line["id"], line["model"], line["outcome"]) for line in lines)
    assert outcomes == [("r1", "fish_llama", "refused"), *[("r1", "fish_tts_stream", "done")] * 2]
