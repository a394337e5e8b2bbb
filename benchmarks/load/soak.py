"""Many requests to a running server, some cancelled: does it hold afterwards what it held before?

    make serve REPOSITORY=build/repository        # in another terminal
    python -m benchmarks.load.soak --url 127.0.0.1:8001 --metrics http://127.0.0.1:8002/metrics

Streams and unary calls, each with a token; a share is cancelled after a moment. A request without
an end within the deadline counts as hung, and fails the run. So does memory that grows with every
request. The last line of stdout is one JSON object.
"""

import json
import queue
import random
import statistics
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import tritonclient.grpc as grpc
import typer
from tritonclient.utils import InferenceServerException

DEADLINE_S = 120  # for one request
SETTLING = 4  # rounds of requests before memory is looked at: allocators and caches fill up
ROUNDS = 6  # of requests, between which memory is looked at
ALLOWED_BYTES = 50_000  # per request: half of the least leak that must be noticed


def inputs(text: str, seed: int, frames: int) -> list[grpc.InferInput]:
    """Tensors of one request, for so many frames at most."""
    values = {
        "text": ("BYTES", text.encode(), np.object_),
        "seed": ("UINT64", seed, np.uint64),
        "max_new_tokens": ("INT32", frames, np.int32),
    }
    tensors = []
    for name, (kind, value, dtype) in values.items():
        tensors.append(grpc.InferInput(name, [1, 1], kind))
        tensors[-1].set_data_from_numpy(np.array([[value]], dtype))
    return tensors


def cancel(client: grpc.InferenceServerClient, token: str) -> None:
    """Cancel the request with that token."""
    tensor = grpc.InferInput("cancel_token", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[token.encode()]], np.object_))
    client.infer("fish_cancel", [tensor])


def one(url: str, model: str, number: int, cancel_after_s: float | None, frames: int) -> str:
    """Run one request to its end; returns how it ended."""
    token, text = uuid.uuid4().hex, "Some words to be spoken. " * (1 + number % 3)
    timer, parameters = None, {"cancel_token": token}
    with grpc.InferenceServerClient(url) as client:
        if cancel_after_s is not None:
            timer = threading.Timer(cancel_after_s, cancel, (client, token))
            timer.start()
        try:
            if model.endswith("_stream"):
                _read_stream(client, model, inputs(text, number, frames), parameters)
            else:
                client.infer(
                    model,
                    inputs(text, number, frames),
                    client_timeout=DEADLINE_S,
                    parameters=parameters,
                )
            return "done"
        except queue.Empty:
            return "hung"
        except InferenceServerException as error:
            message = str(error)
            if "cancelled: " in message:
                return "cancelled"
            return "hung" if "Deadline" in message else message.split(":")[0][-40:]
        finally:
            if timer is not None:
                timer.join()


def _read_stream(
    client: grpc.InferenceServerClient, model: str, tensors: list, parameters: dict
) -> None:
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(
        model, tensors, enable_empty_final_response=True, parameters=parameters
    )
    while True:
        result, error = answers.get(timeout=DEADLINE_S)
        if error is not None:
            raise error
        reason = result.as_numpy("finish_reason")  # none in an empty final response
        if reason is not None and reason.item() == b"cancelled":
            raise InferenceServerException("cancelled: in mid-speech")
        if result.get_response().parameters["triton_final_response"].bool_param:
            return


def held(metrics: str) -> dict[str, float]:
    """What the server holds now: slots, queued requests, MB of its processes, MB of /dev/shm."""
    with urllib.request.urlopen(metrics) as answer:
        lines = answer.read().decode().splitlines()
    pairs = dict(line.rsplit(" ", 1) for line in lines if line.startswith("fish_llama_"))
    found = {
        n: float(pairs.get(f"fish_llama_{n}", 0)) for n in ("active_slots", "waiting_requests")
    }
    pages = [
        int((stat.parent / "statm").read_text().split()[1])
        for stat in Path("/proc").glob("[0-9]*/comm")
        if stat.read_text().startswith(("tritonserver", "triton_python_"))
    ]
    shm = sum(f.stat().st_blocks * 512 for f in Path("/dev/shm").iterdir() if f.is_file())
    return found | {"processes_mb": sum(pages) * 4096 / 1e6, "shm_mb": shm / 1e6}


def soak(
    url: str, models: list[str], requests: int, in_flight: int, cancelled: float, frames: int = 1024
) -> Counter:
    """Make the requests, for so many frames each at most; returns how often they ended how."""
    rng = random.Random(0)
    jobs: queue.Queue = queue.Queue()
    for number in range(requests):
        cancel_after_s = rng.uniform(0, 0.5) if rng.random() < cancelled else None
        jobs.put((models[number % len(models)], number, cancel_after_s))
    ended: Counter = Counter()

    def work() -> None:
        while True:
            try:
                job = jobs.get_nowait()
            except queue.Empty:
                return
            ended[one(url, *job, frames=frames)] += 1

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def slope(samples: Sequence[float]) -> float:
    """By how much samples grow from one to the next, all along.

    The smaller of two medians: of the steps, which a few jumps of an allocator do not change, and
    of the slopes between all pairs, in which what goes up and down is averaged. A leak is in both.
    """
    steps = [b - a for a, b in pairwise(samples)]
    pairs = [(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(samples), 2)]
    return min(statistics.median(steps), statistics.median(pairs))


def grown(
    measure: Callable[[], float],
    work: Callable[[], object],
    requests: int,
    settling: int = SETTLING,
) -> float:
    """Bytes per request by which memory grows.

    Args:
        measure: Bytes that are held.
        work: Runs some requests; called `settling` + `ROUNDS` times.
        requests: How many these are.
        settling: Calls of it before the first measurement.
    """
    for _ in range(settling):
        work()
    samples = [measure()]
    for _ in range(ROUNDS):
        work()
        samples.append(measure())
    return slope(samples) / requests


def main(
    url: str = "127.0.0.1:8001",
    metrics: str = "http://127.0.0.1:8002/metrics",
    requests: int = 500,
    in_flight: int = 16,
    cancelled: Annotated[float, typer.Option(help="Share that is cancelled")] = 0.2,
    models: str = "fish_tts_stream,fish_tts",
) -> None:
    """Soak the server and print what it held before and after."""
    names, ended = models.split(","), Counter()
    soak(url, names, 2 * in_flight, in_flight, 0)  # buffers made on first need
    before, begin, share = held(metrics), time.monotonic(), -(-requests // (SETTLING + ROUNDS))

    def held_bytes() -> float:
        now = held(metrics)
        return 1e6 * (now["processes_mb"] + now["shm_mb"])

    def work() -> None:
        ended.update(soak(url, names, share, in_flight, cancelled))
        time.sleep(2)

    growth = grown(held_bytes, work, share)
    found = {"ended": ended, "before": before, "after": held(metrics)}
    wall_s = round(time.monotonic() - begin, 1)
    print(json.dumps(found | {"bytes_per_request": round(growth), "wall_s": wall_s}))
    raise typer.Exit(1 if ended["hung"] or growth > ALLOWED_BYTES else 0)


if __name__ == "__main__":
    typer.run(main)
