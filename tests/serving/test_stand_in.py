"""The logic of the stand-ins for native backends, without a server."""

from pathlib import Path

import numpy as np
import pytest

from ensemble.contract.artefact import onnx_differences, positions
from ensemble.contract.tensors import Signature, Tensor
from ensemble.serving.stand_in.batch import run_batch
from ensemble.serving.stand_in.served_model import ServedModel

X = Tensor("x", "FP32", (-1, -1))
Y = Tensor("y", "FP32", (-1, 3))


def model(batched: bool = True) -> ServedModel:
    return ServedModel("toy", Path("model.onnx"), Signature((X,), (Y,)), batched, {}, 0, None)


def requests(*rows: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((count, 2), i, np.float32)} for i, count in enumerate(rows)]


def test_a_batch_is_one_run_and_each_request_gets_its_rows() -> None:
    runs = []

    def run(inputs: dict) -> dict:
        runs.append(inputs["x"].shape)
        return {"y": inputs["x"] + 1}

    results = run_batch(model(), requests(1, 3, 2), run)
    assert runs == [(6, 2)]
    for i, (result, rows) in enumerate(zip(results, (1, 3, 2), strict=True)):
        np.testing.assert_array_equal(result["y"], np.full((rows, 2), i + 1))


def test_a_model_without_batch_axis_runs_per_request() -> None:
    runs = []
    run_batch(model(batched=False), requests(1, 3), lambda i: runs.append(i["x"].shape) or i)
    assert runs == [(1, 2), (3, 2)]


def test_one_bad_request_fails_alone() -> None:
    def run(inputs: dict) -> dict:
        if (inputs["x"] == 1).any():
            raise RuntimeError("ones are not welcome")
        return {"y": inputs["x"]}

    first, second, third = run_batch(model(), requests(1, 1, 2), run)
    assert first["y"].shape == (1, 2) and third["y"].shape == (2, 2)
    assert str(second) == "ones are not welcome"


def test_requests_that_cannot_be_joined_run_alone() -> None:
    unequal = [{"x": np.zeros((1, 2), np.float32)}, {"x": np.zeros((1, 3), np.float32)}]
    results = run_batch(model(), unequal, lambda i: {"y": i["x"]})
    assert [r["y"].shape for r in results] == [(1, 2), (1, 3)]


def test_an_output_without_a_row_per_request_is_an_error() -> None:
    (error,) = run_batch(model(), requests(2), lambda i: {"y": i["x"][:1]})
    assert str(error) == "output y has shape (1, 2), expected 2 rows"


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (Signature((X,), (Y,)), []),
        (Signature((Tensor("z", "FP32", (-1, -1)),), (Y,)), ["inputs are ['z'], the config's"]),
        (Signature((Tensor("x", "INT64", (-1, -1)),), (Y,)), ["x is INT64, in the config FP32"]),
        (Signature((Tensor("x", "FP32", (-1,)),), (Y,)), ["x is (-1,), in the config (-1, -1)"]),
        (Signature((Tensor("x", "FP32", (1, -1)),), (Y,)), ["x is (1, -1), in the config (-1"]),
        (Signature((X,), (Tensor("y", "FP32", (-1, -1)),)), ["y is (-1, -1), in the config"]),
        (Signature((X,), ()), ["outputs are [], the config's ['y']"]),
    ],
)
def test_a_graph_is_compared_as_the_native_backend_does(real, expected) -> None:
    found = list(onnx_differences(Signature((X,), (Y,)), real))
    assert len(found) == len(expected)
    assert all(text in difference for text, difference in zip(expected, found, strict=True))


def test_positions_by_argument_name_then_index_then_order() -> None:
    assert positions(["b", "a"], ["a", "b"]) == [1, 0]
    assert positions(["INPUT__1", "INPUT__0"], ["a", "b"]) == [1, 0]
    assert positions(["y", "x"], ["a", "b"]) == [0, 1]
    assert positions(["sum", "OUTPUT__0"]) == [0, 1]
