"""Raw tritonclient calls, as a caller without our client makes them."""

import queue
import urllib.request
from collections import Counter

import numpy as np
import tritonclient.grpc as grpc

KINDS = {
    "text": "BYTES", "reference_text": "BYTES", "checkpoint_id": "BYTES", "cancel_token": "BYTES",
    "fact": "BYTES",
    "reference_audio": "FP32", "waveform": "FP32", "temperature": "FP32", "top_p": "FP32",
    "repetition_penalty": "FP32", "reference_codes": "INT64", "codes": "INT64",
    "new_frames": "INT64", "chunk_frames": "INT64", "chunk_size_s": "FP32",
    "prompt": "INT32", "prefix_length": "INT32", "prompt_parts": "INT32", "top_k": "INT32",
    "ras_window": "INT32",
    "reference_frames": "INT32", "reference_sample_rate": "INT32", "max_new_tokens": "INT32",
    "first_chunk_frames": "INT32", "max_chunk_frames": "INT32", "seed": "UINT64",
}  # fmt: skip
_TYPES = {"BYTES": np.object_, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}


def tensors(**values) -> list[grpc.InferInput]:
    """Name -> value without the batch axis; scalars become dims (1,)."""
    inputs = []
    for name, value in values.items():
        kind = KINDS[name]
        if isinstance(value, str):
            value = value.encode()
        array = np.atleast_1d(np.asarray(value, _TYPES.get(kind, np.uint64)))[None]
        inputs.append(grpc.InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def infer(server, model: str, **values) -> dict[str, np.ndarray]:
    """One unary call; outputs without the batch axis."""
    with grpc.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, tensors(**values), client_timeout=60)
        names = [o.name for o in result.get_response().outputs]
        return {n: result.as_numpy(n)[0] for n in names}


class Stream:
    """All responses of some streaming requests, by request id."""

    def __init__(self, server) -> None:
        self.client = grpc.InferenceServerClient(server.grpc_url)
        self.answers: queue.Queue = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, model: str, request_id: str = "", **values) -> None:
        self.client.async_stream_infer(
            model, tensors(**values), request_id=request_id, enable_empty_final_response=True
        )

    def collect(self, count: int = 1, timeout_s: float = 60) -> dict[str, list[dict]]:
        """Responses of each request up to its FINAL; an error ends the collection."""
        collected: dict[str, list[dict]] = {}
        finals = 0
        while finals < count:
            result, error = self.answers.get(timeout=timeout_s)
            if error is not None:
                raise error
            response = result.get_response()
            chunks = collected.setdefault(response.id, [])
            if response.outputs:
                chunks.append({o.name: result.as_numpy(o.name)[0] for o in response.outputs})
            finals += response.parameters["triton_final_response"].bool_param
        return collected

    def close(self) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()


def stream(server, model: str, **values) -> list[dict]:
    """All responses of one streaming request, on a connection of its own."""
    connection = Stream(server)
    try:
        connection.send(model, **values)
        (chunks,) = connection.collect().values()
        return chunks
    finally:
        connection.close()


def llama_metrics(server) -> dict[str, float]:
    """What the LLaMA stage tells the server's metrics, by name and labels."""
    return metrics(server, "fish_llama_")


def metrics(server, prefix: str) -> dict[str, float]:
    """The server's metrics whose names begin so, by name and labels."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (x.rsplit(" ", 1) for x in lines if x.startswith(prefix))
    return {name: float(value) for name, value in pairs}


def outcomes(server) -> Counter:
    """How requests have left the LLaMA stage so far."""
    prefix = 'fish_llama_requests_total{outcome="'
    found = llama_metrics(server).items()
    return Counter({n[len(prefix) : -2]: int(v) for n, v in found if n.startswith(prefix)})


def joined(chunks: list[dict]) -> np.ndarray:
    """Chunks in any order -> the whole waveform."""
    chunks = sorted(chunks, key=lambda c: c["chunk_index"][0])
    assert [int(c["chunk_index"][0]) for c in chunks] == list(range(len(chunks)))
    assert [bool(c["is_last"][0]) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    return np.concatenate([c["audio"][: c["num_samples"][0]] for c in chunks])
