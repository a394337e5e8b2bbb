"""Random requests to every door of a real server: each is answered, and nothing is told of it."""

import json
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from ensemble.contract.tensors import MODELS
from support.chaos.world import Row, World, since

_IN_FLIGHT = 8
_DOORS = ("/v2/models/{}/infer", "/v2/models/{}/generate", "/v2/models/{}/generate_stream",
          "/v2/models/{}", "/v2/models/{}/config", "/v2/models/{}/stats", "/v2/models/{}/load",
          "/v2/repository/index", "/v2/repository/models/{}/load", "/v2/logging",
          "/v2/trace/setting", "/v2/systemsharedmemory/region/x/register",
          "/v2/cudasharedmemory/status", "/metrics", "/", "/{}")  # fmt: skip
_TELLS = re.compile(rb"Traceback|/home/|/tmp/|/root/|site-packages|voicereel_[0-9a-f]{8}")


def _value(rng: random.Random, depth: int = 0) -> object:
    kinds = ["text", "number", "null", "huge"] + ["list", "object"] * (depth < 3)
    kind = rng.choice(kinds)
    if kind == "text":
        return "".join(chr(rng.choice((0, 10, 34, 65, 233, 0x2028, 0x1F600))) for _ in range(5))
    if kind == "number":
        return rng.choice((0, -1, 2**63, -(2**63), 1e308, 0.5, True))
    if kind == "huge":
        return "x" * rng.randrange(10_000)
    if kind == "list":
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return None if kind == "null" else {str(i): _value(rng, depth + 1) for i in range(3)}


def _body(rng: random.Random, model: str) -> bytes:
    signature = MODELS.get(model)
    names = [t.name for t in signature.inputs] if signature else ["text"]
    if rng.random() < 0.4:
        asked: object = {name: _value(rng) for name in names if rng.random() < 0.7}
    else:
        shapes = ([1, 1], [1], [-1, -1], [2**40], [0], [1, 2, 3])
        dtypes = ("BYTES", "INT32", "FP32", "UINT64", "BOOL", "NONE")
        asked = {"id": _value(rng), "inputs": [
            {"name": name, "shape": rng.choice(shapes), "datatype": rng.choice(dtypes),
             "data": rng.choice(([1], ["a"], [[]], _value(rng)))} for name in names
        ]}  # fmt: skip
    sent = bytearray(json.dumps(asked).encode())
    for _ in range(rng.choice((0, 0, 0, 1, 5))):
        if sent:
            sent[rng.randrange(len(sent))] = rng.randrange(256)
    return bytes(sent[: rng.randrange(len(sent))] if rng.random() < 0.1 else sent)


def _request(rng: random.Random) -> bytes:
    model = rng.choice([*MODELS, "none", "..%2f..", "a" * 300])
    path = rng.choice(_DOORS).format(model)
    method, body = rng.choice(("POST", "POST", "POST", "GET", "PUT")), _body(rng, model)
    length = rng.choice((len(body),) * 8 + (0, -1, 10**11))
    extra = rng.choice(("", "", "Inference-Header-Content-Length: 7\r\n",
                        "Content-Encoding: gzip\r\n",
                        "Transfer-Encoding: chunked\r\n"))  # fmt: skip
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return f"{head}Content-Length: {length}\r\n{extra}\r\n".encode() + body


def fuzz(world: World, requests: int, seed: int = 0) -> Row:
    """Requests that no client would send; lost is one that is not answered, or tells a path."""
    row = Row(f"fuzz of every HTTP door, {requests} requests", requests, limit_s=5)
    host, _, port = world.facts["http"].rpartition(":")

    def one(number: int) -> str:
        sent = _request(random.Random(seed + number))
        begin = time.monotonic()
        try:
            with socket.create_connection((host, int(port)), timeout=15) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65_536)
        except OSError as error:
            return "" if "reset" in str(error) or "pipe" in str(error) else repr(error)
        if _TELLS.search(answer):
            return f"{number} tells: {answer[:200]!r}"
        took = time.monotonic() - begin
        return f"{number} took {took:.0f} s" if took > 10 else ""

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        wrong = list(filter(None, pool.map(one, range(requests))))
    row.lost, row.notes = len(wrong), wrong[:3]
    row.recovery_s = since(world.speaks, time.monotonic(), 60)
    return row
