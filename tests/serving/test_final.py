"""Every request of fish_llama gets FINAL exactly once, whatever happens to it.

The model runs in this process, on a stand-in for what Triton gives it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.serving import cancel
from support.pb_utils_stand_in import Clock, Request, Sender, load

pytestmark = pytest.mark.torch
MODELS = Path(__file__).resolve().parents[2] / "model_repository"
LONG = {"max_new_tokens": [400], "first_chunk_frames": [400]}
MANY_CHUNKS = {"max_new_tokens": [400], "first_chunk_frames": [1], "max_chunk_frames": [1]}
TOKEN = "ab" * 16
WITH_TOKEN = json.dumps({cancel.PARAMETER: TOKEN})


@pytest.fixture(autouse=True)
def waiting(tmp_path, monkeypatch) -> Path:
    """The folder of the cancel tokens."""
    monkeypatch.setattr(cancel, "_FOLDER", tmp_path / "waiting")
    return tmp_path / "waiting"


@pytest.fixture(scope="module")
def module() -> Any:
    return load(MODELS / "fish_llama" / "1" / "model.py")


def started(module: Any, repository: Path) -> Any:
    model = module.TritonPythonModel()
    folder = {"model_repository": str(repository / "fish_llama"), "model_version": "1"}
    model.initialize({**folder, "model_instance_kind": "CPU"})
    return model


@pytest.fixture(scope="module")
def shared(module, repository) -> Iterator[Any]:
    model = started(module, repository)
    yield model
    model.finalize()


@pytest.fixture(scope="module")
def prompt(repository) -> np.ndarray:
    from families.fish_s1.prompt import PromptBuilder

    return PromptBuilder(repository / "fish_prompt" / "1").build("Hello there.", [])[0]


def ended(model: Any, prompt: np.ndarray, sender: Sender) -> None:
    """FINAL came once, with the last response; also after another request has run to its end."""
    sender.wait()
    after = Request(prompt=prompt, max_new_tokens=[2])
    model.execute([after])
    after.sender.wait()
    assert after.sender.error == ""
    assert sender.finals == [False] * (len(sender.sent) - 1) + [True]


@pytest.mark.parametrize(
    ("options", "why"),
    [({"max_new_tokens": [9], "first_chunk_frames": [2]}, "length"), ({"seed": [3]}, "stop")],
)
def test_a_stream_that_is_whole(shared, prompt, waiting, options, why) -> None:
    request = Request(WITH_TOKEN, prompt=prompt, **options)
    shared.execute([request])
    ended(shared, prompt, request.sender)
    assert request.sender.finish_reason == why
    assert list(waiting.iterdir()) == []


BAD: dict[str, tuple[Callable[[np.ndarray], Request], str]] = {
    "prompt": (lambda _: Request(prompt=np.zeros((3, 5), int)), "prompt has shape"),
    "code": (lambda p: Request(prompt=np.full_like(p, 10**6)), "a token or code that"),
    "empty": (lambda p: Request(prompt=p[:, :0]), "prompt has 0 positions"),
    "too long": (lambda p: Request(prompt=np.tile(p, 300)), "expected 1 to"),
    "prefix": (lambda p: Request(prompt=p, prefix_length=[10**4]), "prefix_length is 10000"),
    "option": (lambda p: Request(prompt=p, temperature=[9.0]), "temperature is 9"),
    "token": (lambda p: Request('{"cancel_token": "x"}', prompt=p), "cancel_token is 'x'"),
    "parameters": (lambda p: Request("not JSON", prompt=p), "invalid request"),
    "no prompt": (lambda _: Request(), "fish_llama: "),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request(shared, prompt, kind) -> None:
    make, message = BAD[kind]
    request = make(prompt)
    shared.execute([request])
    assert request.sender.finals == [True]
    assert message in request.sender.error
    ended(shared, prompt, request.sender)


def test_bad_requests_beside_good_ones(shared, prompt) -> None:
    """All of one batch are answered, whichever fail."""
    good = {"prompt": prompt, "max_new_tokens": [3]}
    requests = [Request(**good), Request(), Request(**good), Request(**good, top_p=[3.0])]
    shared.execute(requests)
    for request in requests:
        ended(shared, prompt, request.sender)
    assert [bool(r.sender.error) for r in requests] == [False, True, False, True]


def test_a_token_in_use_stays_that_of_the_first(shared, prompt, waiting) -> None:
    first, second = (Request(WITH_TOKEN, prompt=prompt, **LONG) for _ in range(2))
    shared.execute([first, second])
    assert second.sender.finals == [True]
    assert f"cancel_token {TOKEN} is in use" in second.sender.error
    assert [file.name for file in waiting.iterdir()] == [TOKEN]
    assert cancel.take_back(TOKEN)
    ended(shared, prompt, first.sender)
    assert first.sender.error == "fish_llama: cancelled: by the caller"


def test_a_full_queue(shared, prompt, waiting, monkeypatch) -> None:
    request = Request(WITH_TOKEN, prompt=prompt)
    with monkeypatch.context() as patch:
        patch.setattr(shared.scheduler, "max_waiting", 0)
        shared.execute([request])
    assert request.sender.finals == [True]
    assert "overloaded: 0 requests are waiting already" in request.sender.error
    assert list(waiting.iterdir()) == []
    ended(shared, prompt, request.sender)


def test_codes_that_the_codec_lacks_are_its_last_entries(shared, prompt, monkeypatch) -> None:
    """S2-Pro samples each residual code from 4096, and its codec has 1024; its upstream clamps."""
    options = {"seed": [3], "max_new_tokens": [20], "first_chunk_frames": [20]}
    whole, cut = (Request(prompt=prompt, **options) for _ in range(2))
    shared.execute([whole])
    ended(shared, prompt, whole.sender)
    sizes = (shared.facts.codebook_sizes[0], *(5,) * (shared.facts.num_codebooks - 1))
    monkeypatch.setattr(shared, "facts", replace(shared.facts, codebook_sizes=sizes))
    shared.execute([cut])
    ended(shared, prompt, cut.sender)
    codes, found = (r.sender.sent[0][0].tensors["codes"] for r in (whole, cut))
    assert codes[1:].max() > 4
    assert np.array_equal(found, np.minimum(codes, np.array(sizes)[:, None] - 1))


def test_triton_is_asked_seldom_whether_a_caller_has_left(shared, prompt, monkeypatch) -> None:
    """Each question takes as long as a part of a GPU's step, and there is one for each stream."""
    monkeypatch.setattr("ensemble.serving.stream.ASK_S", 1e9)
    request, asked = Request(prompt=prompt, **MANY_CHUNKS), []
    monkeypatch.setattr(request.sender, "is_cancelled", lambda: bool(asked.append(0)))
    shared.execute([request])
    ended(shared, prompt, request.sender)
    assert len(request.sender.sent) > 2
    assert len(asked) == 1


@pytest.mark.parametrize("by", ["connection", "token"])
@pytest.mark.parametrize("when", ["before the first chunk", "in mid-speech"])
def test_a_caller_who_leaves(shared, prompt, waiting, by, when, monkeypatch) -> None:
    monkeypatch.setattr("ensemble.serving.stream.ASK_S", 0)  # the tiny speech would be over first
    options = LONG if when == "before the first chunk" else MANY_CHUNKS
    request = Request(WITH_TOKEN, prompt=prompt, **options)

    def leave(_: object = None) -> None:
        if by == "token":
            cancel.take_back(TOKEN)
        else:
            request.sender.cancelled = True

    if options is MANY_CHUNKS:
        request.sender.on_send = leave
    shared.execute([request])
    if options is LONG:
        leave()
    ended(shared, prompt, request.sender)
    if options is LONG:
        assert request.sender.error == "fish_llama: cancelled: by the caller"
    else:
        assert len(request.sender.sent) < 20  # of 400: windows that were on their way still leave
        assert request.sender.finish_reason == "cancelled"
    assert [f for f in waiting.iterdir() if not f.suffix] == []


@pytest.mark.parametrize("when", ["before the first chunk", "in mid-speech"])
def test_a_deadline(shared, prompt, monkeypatch, when) -> None:
    clock = Clock()
    monkeypatch.setattr("ensemble.serving.stream.time", clock)
    is_early = when == "before the first chunk"
    options = LONG if is_early else MANY_CHUNKS
    request = Request(timeout_us=100_000_000, prompt=prompt, **options)

    def forward(_: object = None) -> None:
        clock.ahead_s = 1000

    if not is_early:
        request.sender.on_send = forward
    shared.execute([request])
    if is_early:
        forward()
    ended(shared, prompt, request.sender)
    if is_early:
        assert "cancelled: its timeout of 100 s has passed" in request.sender.error
    else:
        assert request.sender.finish_reason == "timeout"


@pytest.mark.parametrize("call", ["extend", "sample_token", "fast_loop"])
@pytest.mark.parametrize("when", ["before the first chunk", "in mid-speech"])
def test_a_failure_of_the_engine(shared, prompt, monkeypatch, waiting, call, when) -> None:
    """It takes its requests with it, those that wait too; the next one runs."""
    requests = [
        Request(json.dumps({cancel.PARAMETER: f"{i:032x}"}), prompt=prompt, **MANY_CHUNKS)
        for i in range(20)
    ]
    with monkeypatch.context() as patch:

        def spoil(_: object = None) -> None:
            def fail(*_: object, **__: object) -> None:
                raise ZeroDivisionError("planted")

            patch.setattr(shared.scheduler.runner, call, fail)

        if when == "before the first chunk":
            spoil()
        else:
            requests[0].sender.on_send = spoil
        shared.execute(requests)
        for request in requests:
            request.sender.wait()
    for request in requests:
        ended(shared, prompt, request.sender)
        assert request.sender.error == "fish_llama: planted"
    assert list(waiting.iterdir()) == []


def test_memory_that_runs_out(module, repository, prompt, monkeypatch) -> None:
    """Slots are halved down to one; then each request gets the error."""
    fresh = started(module, repository)
    requests = [Request(prompt=prompt, **LONG) for _ in range(3)]
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        patch.setattr(fresh.scheduler.runner, "extend", fail)
        fresh.execute(requests)
        for request in requests:
            request.sender.wait()
    for request in requests:
        ended(fresh, prompt, request.sender)
        assert "out of memory" in request.sender.error
    fresh.finalize()


@pytest.mark.parametrize("what", ["windows", "all"])
@pytest.mark.parametrize("options", [MANY_CHUNKS, {"max_new_tokens": [3]}], ids=["first", "last"])
def test_a_response_that_cannot_be_sent_ends_only_its_stream(shared, prompt, what, options) -> None:
    """As without shared memory. Requests that end or go on in the same step are complete."""

    def refuse(response: Any) -> None:
        if what == "all" or response.error is None:
            raise RuntimeError("planted: no shared memory")

    requests = [Request(prompt=prompt, **options) for _ in range(5)]
    longer = Request(prompt=prompt, max_new_tokens=[30], first_chunk_frames=[1], seed=[5])
    broken = requests[2].sender
    broken.on_send = refuse
    shared.execute([*requests, longer])
    for sender in {r.sender for r in (*requests, longer)} - {broken}:
        ended(shared, prompt, sender)
        assert sender.error == ""
    if what == "all":
        assert broken.sent == []
    else:
        assert broken.finals == [True]
        assert broken.error == "fish_llama: planted: no shared memory"


@pytest.mark.slow
def test_a_shutdown(module, repository, prompt, waiting) -> None:
    model = started(module, repository)
    begun = Request(WITH_TOKEN, prompt=prompt, **LONG)
    others = [Request(prompt=prompt, **LONG) for _ in range(20)]
    model.execute([begun, *others])
    model.finalize()
    refused = Request(prompt=prompt)
    model.execute([refused])
    for request in (begun, *others, refused):
        assert request.sender.finals == [True]
        assert "shutting down" in request.sender.error
    assert "overloaded" in refused.sender.error
    assert list(waiting.iterdir()) == []
