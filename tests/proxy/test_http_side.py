"""HTTP through the proxy: bodies are bounded before the server's parser sees them."""

import gzip
import http.client
import json
import socket
import time
import zlib

import numpy as np
import pytest
import tritonclient.http as triton

from support.launched import wait_until
from support.proxied import infer_json, proxied, timed

MIB = 2**20
INFER = "/v2/models/fish_tts/infer"
TEXT = {"text": ("BYTES", [1, 1], ["Hello."])}


def post(door, path: str, body: bytes, **headers: str) -> tuple[int, str]:
    """Status and error, within a second."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer, took_s = timed(lambda: door.http.post(path, content=body, headers=named))
    assert took_s < 1
    return answer.status_code, answer.json().get("error", "")


def test_a_good_request_goes_on_with_its_token(door, upstream_http) -> None:
    body = infer_json(TEXT, parameters={"cancel_token": "ab" * 16}, id="r1")
    answer = door.http.post(INFER, content=body, headers={"traceparent": "00-1"})
    assert answer.json() == {"model_name": "x", "outputs": []}
    ((path, headers, came),) = upstream_http.requests
    assert (path, came, headers["traceparent"]) == (INFER, body, "00-1")


@pytest.mark.parametrize("more", [{}, {"parameters": {}}, {"parameters": {"priority": 1}}])
def test_a_request_for_speech_gets_a_token(door, upstream_http, more) -> None:
    assert post(door, INFER, infer_json(TEXT, **more)) == (200, "")
    ((_, _, came),) = upstream_http.requests
    parsed = json.loads(came)
    assert len(bytes.fromhex(parsed["parameters"].pop("cancel_token"))) == 16
    assert parsed == json.loads(infer_json(TEXT, **{"parameters": {}, **more}))


def test_generate_gets_a_token_too(door, upstream_http) -> None:
    path = "/v2/models/fish_tts_stream/generate_stream"
    assert post(door, path, b'{"text": "[\\"{ Hello."}')[0] == 200
    ((_, _, came),) = upstream_http.requests
    parsed = json.loads(came)
    assert parsed["text"] == '["{ Hello.' and len(parsed["cancel_token"]) == 32


@pytest.mark.parametrize("how", ["gzip", "deflate", None])
def test_tritons_client_with_binary_values_and_packed_bodies(door, upstream_http, how) -> None:
    upstream_http.answer = lambda path, body: [json.dumps({"outputs": []}).encode()]
    with triton.InferenceServerClient(door.http_url) as client:
        text = triton.InferInput("text", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[b"Hello."]], np.object_), binary_data=True)
        client.infer("fish_tts", [text], request_compression_algorithm=how)
    ((_, headers, came),) = upstream_http.requests
    length = int(headers["inference-header-content-length"])
    assert "content-encoding" not in headers
    assert came[length:] == b"\6\0\0\0Hello." and "cancel_token" in json.loads(came[:length])[
        "parameters"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 3_000_000, "nested"),
        (b'{"inputs":' + b"[" * 60_000 + b"]" * 60_000 + b"}", "nested deeper than 64 levels"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper than 64 levels"),
        (b'{"text": "a", "text": "b"}', "a key comes twice"),
        (b"[1]", "the body is no JSON object"),
        (b"", "no JSON that the server takes"),
        (b'{"inputs": [}', "no JSON that the server takes"),
        (b'{"inputs": "\xff"}', "no JSON that the server takes"),
        ('{"inputs": []}'.encode("utf-16"), "no JSON that the server takes"),
        (b'{"inputs": [{"shape": [' + b"9" * 5000 + b"]}]}", "no shape of whole numbers"),
        (b'{"inputs": {}}', "inputs is no array"),
        (b'{"inputs": [7]}', "an input has no shape of whole numbers"),
        (infer_json({"text": ("BYTES", [1.0, 1], ["a"])}), "no shape of whole numbers"),
        (infer_json({"text": ("BYTES", [True, 1], ["a"])}), "no shape of whole numbers"),
        (infer_json({"text": ("BYTES", [-1, -1], ["a"])}), "has shape [-1, -1]"),
        (infer_json({"text": ("BYTES", [1, 1], ["a", "b"])}), "has 2 values, its shape 1"),
        (infer_json({"text": ("BYTES", [1, 1], "a")}), "'text' has no data"),
        (infer_json(TEXT, parameters=7), "parameters is no object"),
        (infer_json(TEXT, parameters={"timeout": -1}), "expected whole microseconds"),
        (infer_json(TEXT, parameters={"timeout": "1"}), "expected whole microseconds"),
        (infer_json(TEXT, outputs=7), "outputs is no array of objects"),
        (
            infer_json(TEXT, outputs=[{"name": "x", "parameters": {"shared_memory_region": "y"}}]),
            "--open shared-memory",
        ),
        (b'{"a": "' + b"a" * 2 * MIB + b'"}', "more than 1 MiB beside arrays"),
        (b'{"a": [' + b"{}," * 100_000 + b"1]}", "arrays and objects"),
    ],
)
def test_bodies_that_the_server_should_not_see(door, upstream_http, body, words) -> None:
    status, said = post(door, INFER, body)
    assert (status, upstream_http.requests) == (400, []) and words in said
    assert "invalid request: " in said


def test_the_values_behind_the_json_are_all_named(door) -> None:
    def asked(size, more: bytes = b"\6\0\0\0Hello.", **extra) -> tuple[int, str]:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], **extra}
        text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]})
        length = {"inference_header_content_length": str(len(text))}
        return post(door, INFER, text.encode() + more, **length)

    assert asked(10) == (200, "")
    assert "binary_data_size is 11, but 10 bytes follow" in asked(11)[1]
    assert "binary_data_size is -1" in asked(-1)[1]
    assert "1 bytes follow that no input names" in asked(10, b"\6\0\0\0Hello.!")[1]
    assert "the lengths inside 'text'" in asked(10, b"\7\0\0\0Hello.")[1]
    assert asked(10, data=["x"])[0] == 400
    for length in ("-1", "1e3", "9" * 30, "1000"):
        status, said = post(door, INFER, b"{}", inference_header_content_length=length)
        assert status == 400 and "Inference-Header-Content-Length" in said


@pytest.mark.parametrize(
    ("packed", "how"),
    [
        (gzip.compress(bytes(12 * MIB)), "gzip"),
        (zlib.compress(bytes(12 * MIB)), "deflate"),
        (gzip.compress(bytes(3 * MIB)) * 2, "gzip"),
    ],
)
def test_a_bomb_is_not_unpacked(door, upstream_http, packed, how) -> None:
    status, said = post(door, INFER, packed, content_encoding=how)
    assert (status, upstream_http.requests) == (413, [])
    assert said == "proxy: the request is larger than 4 MiB. Send less, or raise --max-body-mib."


def test_broken_and_unknown_packings(door) -> None:
    packed = gzip.compress(b"{}" * 1000)
    assert post(door, INFER, packed[:-9], content_encoding="gzip")[0] == 400
    assert post(door, INFER, b"{}", content_encoding="gzip")[0] == 400
    assert "expected gzip, deflate or none" in post(door, INFER, b"{}", content_encoding="br")[1]
    raw = zlib.compress(infer_json(TEXT))[2:-4]  # as some clients write deflate
    assert post(door, INFER, raw, content_encoding="deflate") == (200, "")


def test_a_body_that_is_too_long_is_not_read(door) -> None:
    assert post(door, INFER, bytes(5 * MIB))[0] == 413
    connection = http.client.HTTPConnection(door.http_url, timeout=5)
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Length", "100000000000")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()

    def pieces():
        for _ in range(80):
            yield b"[" * 65536

    answer = door.http.post(INFER, content=pieces())  # of no stated length
    assert answer.status_code == 413


def test_an_empty_list_is_no_tensor(door) -> None:
    status, said = post(door, "/v2/models/fish_encode/generate", b'{"reference_audio": []}')
    assert (status, "is empty, expected at least one value" in said) == (400, True)


def test_a_stream_comes_as_it_is_made_and_is_taken_back(door, upstream, upstream_http) -> None:
    made = []

    def endless(path, body):
        for number in range(100_000):
            made.append(number)
            yield b"data: {}\n\n" + b" " * 20_000
            if upstream.taken_back:
                return

    upstream_http.answer = endless
    path = "/v2/models/fish_tts_stream/generate_stream"
    with door.http.stream("POST", path, json={"text": "a", "cancel_token": "cd" * 16}) as answer:
        assert next(answer.iter_bytes()).startswith(b"data: {}")
    wait_until(lambda: upstream.taken_back == {"cd" * 16}, 1)
    wait_until(lambda: door.proxy.load.in_flight == 0)


def test_a_caller_that_waits_and_leaves_is_taken_back(door, upstream, upstream_http) -> None:
    def slow(path, body):
        wait_until(lambda: upstream.taken_back, 5)
        return [b"{}"]

    upstream_http.answer = slow
    host, _, port = door.http_url.partition(":")
    body = b'{"text": "a"}'
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            b"POST /v2/models/fish_tts/generate HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: upstream_http.requests)
    wait_until(lambda: upstream.taken_back, 1)
    wait_until(lambda: door.proxy.load.in_flight == 0)


def test_a_slow_reader_is_ended(upstream, upstream_http) -> None:
    made = []

    def much(path, body):
        for number in range(3000):
            made.append(number)
            yield bytes(65536)

    upstream_http.answer = much
    settings = {"server_grpc": upstream.url, "server_http": upstream_http.url, "probe_s": 0}
    with proxied(**settings, slow_reader_s=0.5) as door:
        path = "/v2/models/fish_tts_stream/generate_stream"
        with door.http.stream("POST", path, json={"text": "a"}):
            wait_until(lambda: upstream.taken_back, 5)
        assert len(made) < 1000
        wait_until(lambda: door.proxy.load.in_flight == 0)


def test_metadata_of_models_goes_on(door, upstream_http) -> None:
    for path in ("/v2", "/v2/models/fish_tts", "/v2/models/fish_tts/versions/1/config",
                 "/v2/models/stats", "/v2/models/fish_llama/stats"):  # fmt: skip
        assert door.http.get(path).status_code == 200
        assert upstream_http.requests[-1][0] == path


def test_a_caller_that_asks_first_is_told_to_go_on(door) -> None:
    body = infer_json(TEXT)
    host, _, port = door.http_url.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as caller:
        caller.sendall(
            b"POST /v2/models/fish_tts/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert caller.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        caller.sendall(body)
        assert caller.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_full_stages_own_words_say_when_to_come_again(door, upstream_http, monkeypatch) -> None:
    """Triton's status is 400 where the answer is a stream."""
    for said, status, after in (
        ("fish_llama: overloaded: a slot is expected in 9 s, ... Try again in 7 s, or", 503, "7"),
        ("fish_llama: overloaded: 256 requests are waiting. Try again later", 503, None),
        ("fish_llama: out of memory. Try again in 7 s", 400, None),
    ):
        monkeypatch.setattr(upstream_http, "status", 400)
        body = json.dumps({"error": f"in ensemble 'fish_tts_stream', {said}"}).encode()

        def in_pieces(path, _, body=body):
            yield body[:50]
            time.sleep(0.1)
            yield body[50:]
            yield b""

        upstream_http.answer = in_pieces
        answer = door.http.post(INFER, content=infer_json(TEXT))
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers.get("Retry-After") == after
