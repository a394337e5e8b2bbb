"""Processes that die or stop, callers that leave, and stops: each a row of the table."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from support.chaos.world import (
    ASKED,
    BACK_S,
    ERROR_S,
    FRAMES,
    NOT_READY_S,
    SLOTS_S,
    Listener,
    Row,
    World,
    since,
)
from support.launched import PROJECT
from voicereel import VoiceReelError, synthesize_script

_PATIENCE_S = 120  # for a recovery; a limit decides whether it held
_LEAVER = """
import sys
from voicereel import Client
chunks = Client(sys.argv[1]).stream(sys.argv[2], max_new_tokens=400, seed=5, temperature=2.0,
                                    top_p=1.0, repetition_penalty=0.5)
next(chunks)
print("heard", flush=True)
for chunk in chunks:
    pass
"""


def death(world: World, name: str, number: signal.Signals = signal.SIGKILL) -> Row:
    """A process is killed or stopped while a stream goes through it."""
    row = Row(f"{number.name} of {name}", tries=1)
    pid = {"tritonserver": world.server, "proxy": world.proxy}.get(name) or world.stubs()[name]
    listener = Listener(world)
    listener.heard.wait(20)
    begin = time.monotonic()
    os.kill(pid, number)
    gone = since(lambda: world.status() != 200, begin, NOT_READY_S + 1)
    row.recovery_s = since(lambda: world.status() == 200 and world.speaks(), begin, _PATIENCE_S)
    outcome = listener.join(max(0.0, begin + ERROR_S + 20 - time.monotonic()))
    told = listener.ended - begin
    if outcome not in ("refused", "whole") or (outcome == "refused" and told > ERROR_S):
        row.lost += 1
    if gone > NOT_READY_S:
        row.lost += 1
    row.notes += [f"not ready after {gone:.1f} s", f"its caller: {outcome} after {told:.1f} s"]
    return row


def script(world: World, segments: int = 60) -> Row:
    """A script goes on where a process of the server is killed in its middle."""
    row = Row(f"script of {segments} segments, server killed in its middle", tries=segments)
    lines = [{"speaker_id": "A", "text": f"Line number {i}."} for i in range(segments)]
    how = {"max_workers": 4, "max_new_tokens": 8, **ASKED}
    killed = threading.Event()

    def kill() -> None:
        frames, begin = world.metric("fish_llama_frames_total"), time.monotonic()
        since(lambda: world.metric("fish_llama_frames_total") > frames + segments, begin, 60)
        os.kill(world.server, signal.SIGKILL)
        killed.set()

    with world.client(timeout_s=200, return_s=150) as client:
        undisturbed, _ = synthesize_script(client, lines, {"A": None}, **how)
        thread = threading.Thread(target=kill)
        thread.start()
        begin = time.monotonic()
        try:
            disturbed, _ = synthesize_script(client, lines, {"A": None}, **how)
        except VoiceReelError as error:
            row.lost, disturbed = segments, None
            row.notes.append(str(error)[:200])
        took = time.monotonic() - begin
        thread.join()
    if disturbed is not None:
        same = disturbed.waveform.shape == undisturbed.waveform.shape and np.allclose(
            disturbed.waveform, undisturbed.waveform, atol=1e-4
        )
        row.lost = 0 if same else segments
        row.notes.append(f"same audio: {same}, after {took:.0f} s")
    since(lambda: world.status() == 200, time.monotonic(), _PATIENCE_S)
    return row


def leavers(world: World, count: int = 4) -> Row:
    """Client processes are killed in mid-stream: their slots are free within a second."""
    row = Row(f"kill -9 of {count} client processes in mid-stream", count, limit_s=SLOTS_S)
    command = [sys.executable, "-c", _LEAVER, world.facts["grpc"], "A long story of all things."]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "client")}
    callers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(count)
    ]
    for caller in callers:
        caller.stdout.readline()
    active = world.metric("fish_llama_active_slots")
    begin = time.monotonic()
    for caller in callers:
        caller.kill()
        caller.wait()
    # The gauge itself is published twice a second.
    row.recovery_s = since(lambda: world.metric("fish_llama_active_slots") == 0, begin, 60)
    row.notes.append(f"{active:.0f} slots were taken")
    return row


def stalled(world: World, count: int = 4) -> Row:
    """Callers that read nothing do not keep others waiting."""
    row = Row(f"{count} stalled readers", count, limit_s=5)
    clients = [world.client(timeout_s=60) for _ in range(count)]
    streams = [client.stream("A story.", max_new_tokens=400, **ASKED) for client in clients]
    for stream in streams:
        next(stream)
    begin = time.monotonic()
    row.recovery_s = since(world.speaks, begin, 30)
    for stream, client in zip(streams, clients, strict=True):
        stream.close()
        client.close()
    return row


def stop(world: World, to_server: bool, streams: int = 8) -> Row:
    """SIGTERM under load: all that was accepted ends whole, and then everything goes."""
    whom = "tritonserver itself" if to_server else "make serve"
    row = Row(f"SIGTERM to {whom} under {streams} streams", streams, limit_s=30)
    listeners = [Listener(world) for _ in range(streams)]
    for listener in listeners:
        listener.heard.wait(30)
    begin = time.monotonic()
    os.kill(world.server if to_server else world.process.pid, signal.SIGTERM)
    outcomes = Counter(listener.join(60) for listener in listeners)
    row.lost = streams - outcomes["whole"]
    status = world.process.wait(60)
    row.recovery_s = time.monotonic() - begin
    row.notes += [f"exit status {status}", f"{dict(outcomes)}"]
    row.lost += status != 0
    return row


def flood(world: World, rate: float = 25, seconds: float = 30) -> Row:
    """More requests than can be kept up: each is told, and who is accepted is served as before."""
    row = Row(f"{rate:g} requests a second for {seconds:g} s", int(rate * seconds), limit_s=5)
    told: Counter = Counter()
    waits: list[float] = []

    def one(_: int) -> float:
        begin = time.monotonic()
        try:
            with world.client(timeout_s=60, return_s=0) as client:
                client.synthesize("A flood of words.", max_new_tokens=FRAMES, **ASKED)
            told["whole"] += 1
            waits.append(time.monotonic() - begin)
        except VoiceReelError as error:
            told[type(error).__name__] += 1
        except Exception as error:  # anything else is lost
            told[f"lost {error!r}"] += 1
            row.lost += 1
        return time.monotonic() - begin

    alone_s = max(one(0) for _ in range(3))
    slots = int(world.metric("fish_llama_slots"))  # published when something was spoken
    with ThreadPoolExecutor(slots) as pool:  # every slot is taken, and nobody waits for one
        pool.map(one, range(2 * slots))
    uncongested_s = float(np.percentile(waits, 95))
    told.clear()
    waits.clear()
    with ThreadPoolExecutor(256) as pool:
        begin = time.monotonic()
        for number in range(row.tries):
            pool.submit(one, number)
            time.sleep(max(0.0, begin + (number + 1) / rate - time.monotonic()))
        end = time.monotonic()
        row.recovery_s = float("inf")
        while row.recovery_s > 60 and time.monotonic() < end + 60:
            began = time.monotonic()
            if one(0) < 2 * alone_s:
                row.recovery_s = began - end  # the first that is served as before the flood
    flooded = sum(told.values())
    row.lost += max(0, row.tries - flooded)
    p95 = float(np.percentile(waits, 95))
    row.lost += p95 > 2 * uncongested_s
    row.notes += [
        f"{dict(told)}",
        f"accepted ones took {p95:.1f} s at p95; {uncongested_s:.1f} s with all {slots} slots "
        f"taken and nobody waiting, {alone_s:.1f} s alone",
    ]
    return row


def post(world: World, path: str, body: bytes, **headers: str) -> tuple[int, float]:
    """Status (0: hung up) and seconds of a request."""
    begin = time.monotonic()
    request = urllib.request.Request(f"http://{world.facts['http']}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, time.monotonic() - begin
    except urllib.error.HTTPError as error:
        return error.code, time.monotonic() - begin
    except OSError:
        return 0, time.monotonic() - begin


def bombs(world: World) -> Row:
    """Bodies that kill a parser or fill memory: refused, and the server goes on."""
    import gzip

    row = Row("JSON bombs, gzip bombs, shapes that kill a stub", limit_s=5)
    deep = b"[" * 3_000_000
    tensor = {"name": "text", "datatype": "BYTES", "shape": [-1, -1], "data": ["x"]}
    huge = {"name": "text", "datatype": "BYTES", "shape": [2**31, 2**31], "data": ["x"]}
    bodies = [deep, b'{"inputs":' * 1_000_000, json.dumps({"inputs": [tensor]}).encode(),
              json.dumps({"inputs": [huge]}).encode(), b"\xff" * 1000, b"9" * 100_000]  # fmt: skip
    begin = time.monotonic()
    for body in bodies:
        for path in ("fish_tts/infer", "fish_tts/generate", "fish_decoder/infer"):
            row.tries += 1
            status, took = post(world, f"/v2/models/{path}", body)
            row.lost += status == 200 or took > 5
    packed = gzip.compress(b"[" * 400_000_000, 1)
    status, took = post(world, "/v2/models/fish_tts/infer", packed, **{"Content-Encoding": "gzip"})
    row.tries += 1
    row.lost += status == 200
    row.notes.append(f"400 MB in a gzip body: {status} after {took:.1f} s")
    _shapes(world, row)
    row.recovery_s = since(world.speaks, begin, 60) if not world.speaks() else 0.0
    return row


def _shapes(world: World, row: Row) -> None:
    """Tensors with an even number of negative axes, at every model."""
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException

    from ensemble.contract.tensors import MODELS

    with grpc.InferenceServerClient(world.facts["grpc"]) as client:
        for model, signature in ((m, s) for m, s in MODELS.items() if s.inputs):
            for shape in ([-1, -1], [-2, -3], [0, 0], [-1, -1, -1, -1]):
                asked = []
                for tensor in signature.inputs:
                    asked.append(grpc.InferInput(tensor.name, [1, 1], tensor.dtype))
                    raw = asked[-1]
                    raw._input.shape[:] = shape
                    raw._raw_content = b"\0" * 32
                row.tries += 1
                begin = time.monotonic()
                try:
                    client.infer(model, asked, client_timeout=5)
                    row.lost += 1
                    row.notes.append(f"{model} took {shape}")
                except InferenceServerException:
                    row.lost += time.monotonic() - begin > ERROR_S


__all__ = ["BACK_S", "bombs", "death", "flood", "leavers", "script", "stalled", "stop"]
