"""Inner models called directly, with tensors and parameters that their ensembles never send.

Each is told what it got wrong, with the code INVALID_ARG and in the words of the contract; no
traceback of Python's reaches a caller. The models run in this process.
"""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.contract.errors import LogLines
from ensemble.contract.tensors import ANY, FRONT_DOORS, MODELS, Tensor
from support.pb_utils_stand_in import Error, Request, load  # before what imports pb_utils

from ensemble.serving import wire  # isort: skip

MODEL_FILES = Path(__file__).resolve().parents[2] / "model_repository"
NAMES = ["fish_reference", "fish_prompt", "fish_llama", "fish_cancel", "fish_tts", "fish_clone"]
PYTHONS_OWN = ("Error", "object has no attribute", "not subscriptable", "out of bounds", "unpack")
_TYPES = {"BYTES": np.object_, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64,
          "UINT64": np.uint64, "BOOL": np.bool_}  # fmt: skip


@pytest.fixture(scope="module")
def models(repository: Path) -> Iterator[dict[str, Any]]:
    started = {}
    for name in [*NAMES, "fish_checkpoint"]:
        started[name] = load(MODEL_FILES / name / "1" / "model.py").TritonPythonModel()
        folder = {"model_repository": str(repository / name), "model_version": "1"}
        started[name].initialize({**folder, "model_instance_kind": "CPU"})
    yield started
    for model in started.values():
        getattr(model, "finalize", lambda: None)()


def asked(model: Any, inputs: dict[str, np.ndarray], parameters: str = "{}", **more: Any) -> Error:
    """The error that answers a request, which has to come within a second of work."""
    request = Request(parameters, **more)
    request.inputs = inputs
    begin = time.process_time()
    if answers := model.execute([request]):
        (response,) = answers
    else:
        request.sender.wait()
        assert request.sender.finals == [True]
        response = request.sender.sent[0][0]
    assert time.process_time() - begin < 1
    assert response is not None and response.error is not None, inputs
    return response.error


def refused(error: Error, model: str) -> None:
    assert error.code == Error.INVALID_ARG, error.text
    assert error.text.startswith(f"{model}: invalid request: "), error.text
    assert not any(words in error.text for words in PYTHONS_OWN), error.text


def value(tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    filling: Any = b"Hello." if tensor.dtype == "BYTES" else 1
    return np.full(shape, filling, _TYPES[tensor.dtype])


def wrong(tensor: Tensor) -> Iterator[np.ndarray]:
    """Shapes and types that the contract does not have."""
    dims = tuple(3 if axis == ANY else axis for axis in tensor.dims)
    for shape in [(), (0,), (0, 0), (1,), (2, *dims), (0, *dims), (1, *dims, 1), dims]:
        declared = (1, *tensor.dims)
        fits = len(shape) == len(declared) and all(
            want in (ANY, got) for want, got in zip(declared, shape, strict=True)
        )
        if not fits:
            yield value(tensor, shape)
    for axis, size in enumerate(tensor.dims):
        if size != ANY:
            yield value(tensor, (1, *dims[:axis], 0, *dims[axis + 1 :]))
    yield np.full((1, *dims), 5, object)
    yield np.full((1, *dims), 1j)


def good(name: str) -> dict[str, np.ndarray]:
    tensors = (t for t in MODELS[name].inputs if not t.optional)
    dims = {t.name: tuple(3 if axis == ANY else axis for axis in t.dims) for t in tensors}
    by_name = {t.name: t for t in MODELS[name].inputs}
    return {key: value(by_name[key], (1, *size)) for key, size in dims.items()}


CASES = [(name, tensor) for name in NAMES for tensor in MODELS[name].inputs]


@pytest.mark.torch
@pytest.mark.parametrize(("name", "tensor"), CASES, ids=[f"{n}-{t.name}" for n, t in CASES])
def test_a_tensor_that_the_contract_does_not_have(models, name, tensor) -> None:
    for array in wrong(tensor):
        error = asked(models[name], {**good(name), tensor.name: array})
        refused(error, name)
        assert tensor.name in error.text
    if not tensor.optional and name not in FRONT_DOORS:  # these leave it to their ensembles
        others = {key: array for key, array in good(name).items() if key != tensor.name}
        error = asked(models[name], others)
        refused(error, name)
        assert f"{tensor.name} is missing, expected {tensor.dtype} of shape [1, " in error.text


@pytest.mark.torch
def test_random_tensors_never_show_python(models) -> None:
    """Values, sizes and absences at random: an answer, or a refusal in the contract's words."""
    random = np.random.default_rng(22)
    for name, _ in itertools.product(["fish_reference", "fish_prompt", "fish_llama"], range(60)):
        inputs = {}
        for tensor in MODELS[name].inputs:
            if random.random() < 0.4:
                continue
            shape = tuple(random.integers(0, 14, random.integers(1, 4)))
            if tensor.dtype == "BYTES":
                texts = [b"", b"\xff", b"Hi.", "e\u0301".encode() * 99, b"1" * 30_000]
                array = np.array(texts, object)[random.integers(0, 5, shape)]
            else:
                extremes = [0, -1, 1, 2**31 - 1, -(2**31), 44100]
                if tensor.dtype == "FP32":
                    extremes = [0.0, -1.0, np.nan, np.inf, 1e38, 0.5]
                array = np.array(extremes)[random.integers(0, 6, shape)]
                with np.errstate(all="ignore"):
                    array = array.astype(_TYPES[tensor.dtype])
            inputs[tensor.name] = array
        refused(asked(models[name], inputs), name)


@pytest.mark.torch
@pytest.mark.parametrize("name", [*NAMES, "fish_checkpoint"])
@pytest.mark.parametrize("parameters", ['{"sead": 1}', '{"cancel_tokem": []}'])
def test_a_parameter_that_nobody_reads(models, name, parameters) -> None:
    refused(asked(models[name], good(name), parameters), name)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["fish_llama", "fish_tts", "fish_clone"])
@pytest.mark.parametrize("given_us", [2**64 - 1, 2**64 - 10**6, 2**62])
def test_a_timeout_that_is_none(models, name, given_us) -> None:
    """Triton hands a timeout of -1 over as a number without a sign."""
    error = asked(models[name], good(name), timeout_us=given_us)
    refused(error, name)
    shown = given_us if given_us < 2**63 else given_us - 2**64
    assert f"timeout is {shown}, expected whole microseconds from 0 to 86400000000" in error.text


@pytest.mark.torch
@pytest.mark.parametrize("token", [5, True, 1.5, None, "x" * 10**6, "../../etc/passwd", "A" * 32])
def test_a_cancel_token_that_is_none(models, token) -> None:
    parameters = json.dumps({"cancel_token": token})
    if token is not None:
        error = asked(models["fish_llama"], good("fish_llama"), parameters)
        refused(error, "fish_llama")
        assert len(error.text) < 3000
    name = np.array([[str(token).encode()]], object)
    refused(asked(models["fish_cancel"], {"cancel_token": name}), "fish_cancel")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" + "\u0301\u0316" * 9000, "text has 18000 accents on one letter, expected at most 30"),
        ("a" + "\u0301\u0316" * 90_000, "text has 180001 characters, expected at most 20000"),
    ],
)
def test_a_text_whose_accents_would_take_minutes(models, text, message) -> None:
    error = asked(models["fish_prompt"], {"text": np.array([[text.encode()]], object)})
    refused(error, "fish_prompt")
    assert message in error.text


@pytest.mark.torch
def test_many_texts_are_bounded_together(models) -> None:
    texts = np.array([[b"word " * 1000] * 50], object)
    error = asked(models["fish_prompt"], {**good("fish_prompt"), "reference_text": texts})
    refused(error, "fish_prompt")
    assert "reference_text has 250000 characters in 50 texts, expected at most 20000" in error.text


@pytest.mark.torch
def test_the_log_says_whose_request_it_was(models, capsys, monkeypatch) -> None:
    """In one line, whatever the caller writes into the id."""
    monkeypatch.setattr(wire, "_LINES", LogLines())
    asked(models["fish_prompt"], {}, request_id="7\nfish_llama: all is well")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "fish_prompt: request '7\\nfish_llama: all is well': invalid request: text is missing"
    )
