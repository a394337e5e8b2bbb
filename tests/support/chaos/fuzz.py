"""Random requests to every door of a real server: each is answered, and nothing is told of it."""

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.chaos import requests
from support.chaos.world import Row, World, since

_IN_FLIGHT = 8  # requests side by side: an example
_PAUSE_S = 0.3  # of a proxy that waits for the rest of a body
_ANSWER_S = 10  # that an answer may take beside seven others
_TELLS = re.compile(rb"Traceback|/home/|/tmp/|/root/|site-packages|voicereel_[0-9a-f]{8}")


def fuzz(world: World, count: int) -> Row:
    """Requests that no client would send.

    Lost is one that is not answered in time, or whose answer tells a path or a traceback; the
    smallest such request is in the notes. No process may end by them.
    """
    row = Row(f"fuzz of every door, {count} requests", limit_s=5)
    before = _processes(world)
    with grpc.insecure_channel(world.facts["grpc"]) as channel:
        for door, share, request, ask in (
            ("HTTP", 0.6, requests.http(), lambda sent: _ask_http(world, "http", sent)),
            ("gRPC", 0.3, requests.grpc(), lambda sent: _ask_grpc(channel, sent)),
            ("metrics", 0.1, requests.http(), lambda sent: _ask_http(world, "metrics", sent)),
        ):
            asked, wrong = _try(request, ask, max(1, round(share * count / _IN_FLIGHT)))
            row.tries += asked
            row.lost += bool(wrong)
            row.notes += [f"{door}: {wrong[:300]}"] * bool(wrong)
    row.recovery_s = since(world.speaks, time.monotonic(), 60)
    if ended := sorted(before.items() - _processes(world).items()):
        row.lost += len(ended)
        row.notes.append(f"ended: {ended}")
    return row


def _processes(world: World) -> dict[str, int]:
    return {"tritonserver": world.server, "proxy": world.proxy, **world.stubs()}


def _try(
    request: st.SearchStrategy[Any], ask: Callable[[Any], str], examples: int
) -> tuple[int, str]:
    """How many were asked, and what was wrong with the smallest that failed, or ""."""
    asked = 0

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.lists(request, min_size=_IN_FLIGHT, max_size=_IN_FLIGHT))
    def every(batch: list[Any]) -> None:
        nonlocal asked
        asked += len(batch)
        for sent, wrong in zip(batch, pool.map(ask, batch), strict=True):
            assert not wrong, f"{wrong}: {sent!r}"

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        try:
            every()
        except AssertionError as problem:
            return asked, str(problem)
    return asked, ""


def _judged(answer: bytes, begin: float) -> str:
    if _TELLS.search(answer):
        return f"tells {answer[:200]!r}"
    took = time.monotonic() - begin
    return f"took {took:.0f} s" if took > _ANSWER_S else ""


def _ask_http(world: World, use: str, sent: bytes) -> str:
    """What is wrong with the answer, or ""."""
    url = world.facts[use].removeprefix("http://").partition("/")[0]
    host, _, port = url.rpartition(":")
    begin = time.monotonic()
    try:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_S + 5) as connection:
            connection.sendall(sent)
            answer = _answer(connection)
    except (ConnectionResetError, BrokenPipeError):
        return ""  # the rest of a body that was refused
    except OSError as problem:
        return repr(problem)
    return _judged(answer, begin)


def _answer(connection: socket.socket) -> bytes:
    """The first bytes of an answer; after a pause, the end of what is asked is said."""
    connection.settimeout(_PAUSE_S)
    try:
        return connection.recv(65_536)
    except TimeoutError:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_ANSWER_S + 5)
        return connection.recv(65_536)


def _ask_grpc(channel: grpc.Channel, sent: requests.Call) -> str:
    begin, said = time.monotonic(), ""
    call: Any = (channel.stream_stream if sent.is_stream else channel.unary_stream)(sent.method)
    asked = iter(sent.messages) if sent.is_stream else sent.messages[0]
    try:
        for reply in call(asked, timeout=_ANSWER_S + 5, metadata=sent.metadata):
            said += reply.decode("utf-8", "replace")
    except grpc.RpcError as error:
        status: Any = error
        if status.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED):
            return f"ended with {status.code().name}, {status.details()}"
        said += status.details() or ""
    return _judged(said.encode("utf-8", "replace"), begin)
