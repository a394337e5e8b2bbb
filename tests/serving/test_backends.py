"""The stand-ins for native backends: behind a real tritonserver."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from launch.server import Server
from support import toys
from support.native import stand_ins

DTYPES = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
    "STRING": TensorProto.STRING,
}
VALUES = {
    "FP16": np.float16([[1.5, -2]]),
    "FP32": np.float32([[1.25, np.inf]]),
    "INT32": np.int32([[-(2**31), 7]]),
    "INT64": np.int64([[2**62, -1]]),
    "BOOL": np.array([[True, False]]),
    "STRING": np.array([["naïve".encode(), b""]], np.object_),
}


def place_onnx_models(repository: Path) -> None:
    toys.place_doubling(repository)
    picking = toys.config("onnxruntime", {"index": "INT64 1"}, {"picked": "FP32 1"})
    toys.onnx_graph(
        toys.place(repository, "picking", picking) / "model.onnx",
        [helper.make_node("Gather", ["table", "index"], ["picked"])],
        {"index": (TensorProto.INT64, ["batch", 1])},
        {"picked": (TensorProto.FLOAT, ["batch", 1])},
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [10.0, 11.0, 12.0])],
    )
    same = toys.config(
        "onnxruntime",
        {f"in_{d}": f"{d} -1" for d in DTYPES},
        {f"out_{d}": f"{d} -1" for d in DTYPES},
        more="""parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        optimization { graph { level: -1 } } default_model_filename: "same.onnx" """,
    )
    toys.onnx_graph(
        toys.place(repository, "same", same) / "same.onnx",
        [helper.make_node("Identity", [f"in_{d}"], [f"out_{d}"]) for d in DTYPES],
        {f"in_{d}": (t, ["batch", "n"]) for d, t in DTYPES.items()},
        {f"out_{d}": (t, ["batch", "n"]) for d, t in DTYPES.items()},
    )
    unbatched = toys.config("onnxruntime", {"x": "FP32 -1"}, {"y": "FP32 -1"}, 0, "")
    toys.doubling(toys.place(repository, "unbatched", unbatched) / "model.onnx", ("n",))


def place_torch_models(repository: Path) -> None:

    class Difference(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor):
            if bool((a < 0).any()):
                raise ValueError("negative")
            return a - b, a.to(torch.int64)

    script = torch.jit.script(Difference())
    named = toys.config(
        "pytorch",
        {"b": "FP32 -1", "a": "FP32 -1"},
        {"difference": "FP32 -1", "whole": "INT64 -1"},
        more=toys.QUICK_TO_BATCH
        + """parameters { key: "DISABLE_OPTIMIZED_EXECUTION" value { string_value: "true" } }
        parameters { key: "INFERENCE_MODE" value { string_value: "true" } }
        parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "1" } }
        parameters { key: "INTER_OP_THREAD_COUNT" value { string_value: "1" } }""",
    )
    script.save(str(toys.place(repository, "named", named) / "model.pt"))
    indexed = toys.config(
        "pytorch",
        {"INPUT__1": "FP32 -1", "INPUT__0": "FP32 -1"},
        {"OUTPUT__1": "INT64 -1", "OUTPUT__0": "FP32 -1"},
    )
    script.save(str(toys.place(repository, "indexed", indexed) / "model.pt"))
    wrong = toys.config(
        "pytorch", {"a": "FP32 -1", "b": "FP32 -1"}, {"d": "FP32 -1", "w": "INT32 -1"}
    )
    script.save(str(toys.place(repository, "wrong_dtype", wrong) / "model.pt"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    repository = tmp_path_factory.mktemp("toys")
    place_onnx_models(repository)
    place_torch_models(repository)
    with Server(repository) as server, grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


def ask(client: grpc.InferenceServerClient, name: str, **arrays: np.ndarray) -> dict:
    inputs = []
    for key, array in arrays.items():
        dtype = {np.object_: "BYTES", np.bool_: "BOOL"}.get(array.dtype.type)
        dtype = dtype or array.dtype.name.upper().replace("FLOAT", "FP")
        inputs.append(grpc.InferInput(key, array.shape, dtype).set_data_from_numpy(array))
    result = client.infer(name, inputs)
    names = [output.name for output in result.get_response().outputs]
    return {output: result.as_numpy(output) for output in names}


def counts(client: grpc.InferenceServerClient, name: str, rows: int = 0) -> tuple[int, int]:
    """Rows and executions so far, once there are so many rows: counted after they are answered."""
    give_up = time.monotonic() + 20
    while True:
        (statistics,) = client.get_inference_statistics(name).model_stats
        if statistics.inference_count >= rows or time.monotonic() > give_up:
            return statistics.inference_count, statistics.execution_count
        time.sleep(0.05)


def at_once(count: int, call) -> list:
    """Call with 0, 1, ... from as many threads; what it returned or raised, in order."""

    def attempt(i: int):
        try:
            return call(i)
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(attempt, range(count)))


@pytest.mark.server
@pytest.mark.parametrize("name", ["doubling", "named"])
def test_concurrent_requests_share_a_run(client, name) -> None:
    def call(i: int) -> dict:
        x = np.full((1 + i % 2, 4), i, np.float32)  # one or two rows
        return ask(client, name, x=x) if name == "doubling" else ask(client, name, a=x, b=x)

    inferences, executions = counts(client, name)
    results = at_once(5, call)
    for i, result in enumerate(results):
        shape, output = (1 + i % 2, 4), "y" if name == "doubling" else "whole"
        expected = 2 * i if name == "doubling" else i
        np.testing.assert_array_equal(result[output], np.full(shape, expected))
    rows, runs = counts(client, name, inferences + 7)
    assert rows - inferences == 7
    assert runs - executions < 5


@pytest.mark.server
def test_every_dtype_comes_through(client) -> None:
    results = ask(client, "same", **{f"in_{d}": value for d, value in VALUES.items()})
    for dtype, value in VALUES.items():
        assert results[f"out_{dtype}"].dtype == value.dtype
        np.testing.assert_array_equal(results[f"out_{dtype}"], value)


@pytest.mark.server
def test_without_a_batch_axis(client) -> None:
    results = at_once(3, lambda i: ask(client, "unbatched", x=np.full(2 + i, i, np.float32)))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result["y"], np.full(2 + i, 2 * i))


@pytest.mark.server
def test_torch_inputs_and_outputs_by_name_and_by_index(client) -> None:
    a, b = np.float32([[5, 7]]), np.float32([[1, 2]])
    named = ask(client, "named", a=a, b=b)
    np.testing.assert_array_equal(named["difference"], [[4, 5]])
    assert named["whole"].dtype == np.int64
    indexed = ask(client, "indexed", INPUT__0=a, INPUT__1=b)
    np.testing.assert_array_equal(indexed["OUTPUT__0"], [[4, 5]])
    np.testing.assert_array_equal(indexed["OUTPUT__1"], [[5, 7]])


@pytest.mark.server
@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("picking", lambda v: {"index": np.int64([[v]])}, "picking: .*out of.*bounds"),
        ("named", lambda v: {"a": np.float32([[1 - v]]), "b": np.float32([[0]])}, "negative"),
    ],
)
def test_a_bad_request_does_not_take_down_its_batch(client, name, call, message) -> None:
    rows, executions = counts(client, name)
    results = at_once(4, lambda i: ask(client, name, **call(99 if i == 2 else 1)))
    with pytest.raises(InferenceServerException, match=message):
        raise results.pop(2)
    assert all(isinstance(result, dict) for result in results)
    assert counts(client, name, rows + 4)[1] - executions < 4  # they did share a batch
    assert isinstance(ask(client, name, **call(1)), dict)  # and the model lives on


@pytest.mark.server
def test_an_output_of_another_dtype_is_an_error(client) -> None:
    one = np.float32([[1]])
    with pytest.raises(InferenceServerException, match=r"wrong_dtype: .*w is int64.* INT32"):
        ask(client, "wrong_dtype", a=one, b=one)


FAULTY = {
    "missing": (toys.config("onnxruntime", {"x": "FP32 -1"}, {"y": "FP32 -1"}), None),
    "renamed": (toys.config("onnxruntime", {"x": "FP32 -1"}, {"z": "FP32 -1"}), ("batch", "n")),
    "retyped": (toys.config("onnxruntime", {"x": "INT64 -1"}, {"y": "FP32 -1"}), ("batch", "n")),
    "rank": (toys.config("onnxruntime", {"x": "FP32 -1, -1"}, {"y": "FP32 -1"}), ("batch", "n")),
    "fixed_batch": (toys.config("onnxruntime", {"x": "FP32 -1"}, {"y": "FP32 -1"}), (1, "n")),
    "parameter": (
        toys.config(
            "onnxruntime",
            {"x": "FP32 -1"},
            {"y": "FP32 -1"},
            more='parameters { key: "execution_mode" value { string_value: "two" } }',
        ),
        ("batch", "n"),
    ),
    "torch_missing": (toys.config("pytorch", {"x": "FP32 -1"}, {"y": "FP32 -1"}), None),
}
REASONS = {
    "missing": "missing: .*/missing/1/model.onnx is missing. Make it with: make export CHECKPOINT",
    "renamed": r"graph's outputs are \['y'\], the config's \['z'\]",
    "retyped": "input x is FP32, in the config INT64. Re-export with: make export",
    "rank": r"input x is \(-1, -1\), in the config \(-1, -1, -1\)",
    "fixed_batch": r"input x is \(1, -1\), in the config \(-1, -1\)",
    "parameter": "parameter: execution_mode is 'two', not an integer",
    "torch_missing": "torch_missing: .*/1/model.pt is missing. Make it with: make export",
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    repository = tmp_path_factory.mktemp("faulty")
    for name, (text, axes) in FAULTY.items():
        version = toys.place(repository, name, text)
        if axes:
            toys.doubling(version / "model.onnx", axes)
    flags = ["--exit-on-error=false", "--strict-readiness=false"]
    with (
        Server(repository, flags=flags) as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        index = client.get_model_repository_index().models
        assert {entry.name: entry.state for entry in index} == dict.fromkeys(FAULTY, "UNAVAILABLE")
        return {entry.name: entry.reason for entry in index}


@stand_ins
@pytest.mark.server
@pytest.mark.parametrize("name", FAULTY)
def test_refused_at_load_with_a_clear_reason(refusals, name) -> None:
    assert re.search(REASONS[name], refusals[name]), refusals[name]
