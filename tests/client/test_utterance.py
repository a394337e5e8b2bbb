"""One text as several requests: cut by sentence, joined, tried again, judged by its rate."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from support.fake_server import RATE_HZ, FakeServer, Refusal, chunk, inputs_of, whole
from voicereel import (
    Client,
    DeadlineExceeded,
    InvalidRequest,
    Options,
    ServerError,
    stream_script,
    synthesize_script,
    synthesize_script_async,
)

FIRST = "Did the captain find the guitar last night?"
SECOND = "The enormous elephant is behind the hospital."
TWO = f"{FIRST} {SECOND}"
FACTS = {"letters_per_request": 42, "letters_per_s": [7.0, 19.0]}


def text_of(inputs) -> str:
    return inputs["text"].item().decode()


def speech(text: str, letters_per_s: float = 12.0) -> np.ndarray:
    """So many samples as the text takes, all of a value that is the text's own."""
    letters = sum(map(str.isalnum, text))
    value = (sum(text.encode()) % 97) / 100
    return np.full(round(letters / letters_per_s * RATE_HZ), value, np.float32)


def right(inputs) -> Iterator[dict]:
    yield whole(speech(text_of(inputs)))


def in_chunks(inputs) -> Iterator[dict]:
    """Each text in three chunks, the last one empty."""
    samples = speech(text_of(inputs))
    for index, piece in enumerate([*np.array_split(samples, 2), samples[:0]]):
        made = chunk(index, samples=0, is_last=index == 2)
        yield made | {
            "audio": piece[None],
            "num_samples": np.array([[len(piece)]], np.int32),
        }


@pytest.fixture
def one_by_one(fake: FakeServer) -> FakeServer:
    fake.facts, fake.answer = FACTS, right
    return fake


def asked(fake: FakeServer) -> list[str]:
    return [text_of(inputs_of(request)) for request in fake.requests]


def test_a_checkpoint_of_single_sentences_gets_single_sentences(client, one_by_one) -> None:
    audio = client.synthesize(TWO, seed=7)
    assert sorted(asked(one_by_one)) == [FIRST, SECOND]
    np.testing.assert_array_equal(audio, np.concatenate([speech(FIRST), speech(SECOND)]))
    assert (audio.finish_reason, audio.warnings) == ("stop", ())
    assert {inputs_of(r)["seed"].item() for r in one_by_one.requests} == {7}


@pytest.mark.parametrize("facts", [None, {}, FACTS | {"letters_per_request": 0}, {"x": 1}])
def test_any_other_checkpoint_gets_the_text_whole(client, fake, facts) -> None:
    fake.facts, fake.answer = facts, right
    client.synthesize(TWO)
    assert asked(fake) == [TWO]


@pytest.mark.parametrize(
    "text",
    [
        "Good morning, Bob. Did you sleep well?",  # two sentences that were learnt together
        "Dr. Smith has painted approx. 3.5 castles at 5 p.m. in the U.S. without a break.",
        "He said: no... never",
    ],
)
def test_what_is_one_sentence_or_short_stays_whole(client, one_by_one, text) -> None:
    client.synthesize(text)
    assert asked(one_by_one) == [text]


def test_every_sentence_is_said_wherever_it_stands(client, one_by_one) -> None:
    text = f'{FIRST} ... {SECOND}\n\n"{FIRST}" — Then?! 1. {SECOND}'
    client.synthesize(text)
    assert "".join(sorted("".join(asked(one_by_one)))).replace(" ", "") == "".join(
        sorted("".join(text.split()))
    )
    assert all(sum(map(str.isalnum, part)) <= 46 for part in asked(one_by_one))


def test_streams_begin_with_the_first_sentence(client, one_by_one) -> None:
    one_by_one.answer = in_chunks
    chunks = list(client.stream(TWO))
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert [c.is_last for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [c.finish_reason for c in chunks] == [""] * (len(chunks) - 1) + ["stop"]
    spoken = np.concatenate([c.waveform for c in chunks])
    np.testing.assert_array_equal(spoken, np.concatenate([speech(FIRST), speech(SECOND)]))


def test_a_stream_sends_nothing_before_it_is_read_and_can_be_closed(client, one_by_one) -> None:
    one_by_one.answer = in_chunks
    chunks = client.stream(TWO)
    assert asked(one_by_one) == []
    next(chunks)
    chunks.close()


@pytest.mark.parametrize("how", ["whole", "streamed", "async"])
def test_scripts_say_every_sentence(client, one_by_one, how) -> None:
    script = [{"speaker_id": "A", "text": TWO}, {"speaker_id": "A", "text": FIRST}]
    if how == "streamed":
        one_by_one.answer = in_chunks
        pieces = list(stream_script(client, script, {"A": None}))
        waveform = np.concatenate([piece.waveform for piece in pieces])
    else:
        speak = synthesize_script if how == "whole" else lambda *a: asyncio.run(
            synthesize_script_async(*a)
        )  # fmt: skip
        waveform = speak(client, script, {"A": None}).audio.waveform
    expected = np.concatenate([speech(FIRST), speech(SECOND), speech(FIRST)])
    np.testing.assert_array_equal(waveform, expected)
    assert sorted(asked(one_by_one)) == [FIRST, FIRST, SECOND]


def test_a_part_that_fails_or_is_cut_is_told(client, one_by_one) -> None:
    def cut(inputs):
        reason = b"length" if text_of(inputs) == FIRST else b"stop"
        yield whole(speech(text_of(inputs))) | {"finish_reason": np.array([[reason]], np.object_)}

    one_by_one.answer = cut
    assert client.synthesize(TWO).finish_reason == "length"
    one_by_one.answer = lambda inputs: iter([{"nothing": np.zeros((1, 1), np.float32)}])
    with pytest.raises(ServerError, match="has no audio"):
        client.synthesize(TWO)


def test_parts_share_the_time_of_the_call(client, one_by_one) -> None:
    four = " ".join([FIRST, SECOND] * 6)

    def slow(inputs):
        one_by_one.cancelled.wait(0.2)
        yield from right(inputs)

    one_by_one.answer = slow
    with pytest.raises(DeadlineExceeded):
        client.synthesize(four, timeout_s=0.3)


def test_speech_of_an_impossible_rate_has_a_warning(client, one_by_one) -> None:
    one_by_one.answer = lambda inputs: iter([whole(speech(text_of(inputs), 24.0))])
    audio = client.synthesize(FIRST)
    assert audio.warnings == (
        "'Did the captain find the guitar last ...' is too short: words are missing "
        "(24 letters a second, expected 7 to 19)",
    )
    assert audio.finish_reason == "stop"
    reel = synthesize_script(client, [{"speaker_id": "A", "text": FIRST}], {"A": None})
    (warning,) = reel.audio.warnings
    assert re.match(
        r"segment 1 of 1 \(A: 'Did the captain .*\): 'Did .* is too short: words are", warning
    )


def test_a_stream_has_its_warning_with_the_last_chunk(client, fake) -> None:
    fake.answer = in_chunks
    fake.facts = FACTS | {"letters_per_s": [13.0, 19.0]}
    *others, last = client.stream("Once upon a time there was a very long story")
    assert [c.warnings for c in others] == [(), ()]
    assert last.warnings == ()  # a second of silence is allowed
    fake.facts = FACTS | {"letters_per_s": [2.0, 7.0]}
    with Client(fake.url) as another:
        *_, last = another.stream(TWO)
        assert [w[:4] for w in last.warnings] == ["'Did", "'The"]


def test_a_retry_has_another_seed_then_smaller_parts(client, one_by_one) -> None:
    text = "When the captain came, he found a guitar."
    seen: list[tuple[str, int]] = []

    def poor(inputs):
        seen.append((text_of(inputs), inputs["seed"].item()))
        yield whole(speech(text_of(inputs), 12.0 if len(text_of(inputs)) < 30 else 30.0))

    one_by_one.answer = poor
    last_seed = 2**64 - 1
    audio = client.synthesize(text, seed=last_seed, retries=2)
    assert audio.warnings == ()
    assert seen == [
        (text, last_seed),
        (text, 0),
        ("When the captain came,", 1),
        ("he found a guitar.", 1),
    ]


def test_what_stays_wrong_is_the_best_of_all_tries(client, one_by_one) -> None:
    rates = iter([40.0, 21.0, 30.0])
    one_by_one.answer = lambda inputs: iter([whole(speech(text_of(inputs), next(rates)))])
    audio = client.synthesize(FIRST, retries=2)
    assert len(audio) == len(speech(FIRST, 21.0))
    assert "21 letters a second" in audio.warnings[0]


def test_a_retry_that_fails_loses_nothing(client, one_by_one) -> None:
    def once(inputs):
        if len(one_by_one.requests) > 1:
            raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: boom")
        yield whole(speech(text_of(inputs), 40.0))

    one_by_one.answer = once
    audio = client.synthesize(FIRST, retries=3)
    assert len(audio) == len(speech(FIRST, 40.0)) and audio.warnings
    assert len(one_by_one.requests) == 2
    with pytest.raises(ServerError, match="boom"):
        client.synthesize(FIRST, retries=3)


def test_without_retries_there_is_one_request(client, one_by_one) -> None:
    one_by_one.answer = lambda inputs: iter([whole(speech(text_of(inputs), 40.0))])
    client.synthesize(FIRST)
    assert len(one_by_one.requests) == 1


@pytest.mark.parametrize("retries", [-1, 11])
def test_retries_have_a_range(client, retries) -> None:
    script = [{"speaker_id": "A", "text": "Hi."}]
    for call in (
        lambda: client.synthesize("Hi.", retries=retries),
        lambda: synthesize_script(client, script, {"A": None}, retries=retries),
    ):
        with pytest.raises(InvalidRequest, match=f"retries is {retries}, expected 0 to 10"):
            call()


def test_a_stream_cannot_be_taken_back(client) -> None:
    with pytest.raises(InvalidRequest, match="streamed cannot be taken back"):
        stream_script(client, [{"speaker_id": "A", "text": "Hi."}], {"A": None}, retries=1)


def test_a_speaker_that_tells_no_facts_speaks_whole_texts() -> None:
    class Plain:
        def synthesize(self, text: str, voice=None, **options: Options):
            assert text == TWO and "retries" not in options
            raise ServerError("heard")

    with pytest.raises(ServerError, match="heard"):
        synthesize_script(Plain(), [{"speaker_id": "A", "text": TWO}], {"A": None})


@pytest.mark.parametrize(
    ("language", "hint"), [("zz", ""), ("", ""), ("en-US", "en"), ("english", "en"), ("EN", "en")]
)
def test_a_language_that_there_is_not_is_refused(client, language, hint) -> None:
    script = [{"speaker_id": "A", "text": "Hi."}]
    ending = f" Did you mean {hint}\\?$" if hint else r"$"
    with pytest.raises(
        InvalidRequest, match=f"language is '{language}', expected .* as en.{ending}"
    ):
        synthesize_script(client, script, {"A": None}, language=language)


def test_a_stream_asks_for_a_sentence_when_the_one_before_has_been_made(
    fake: FakeServer, client: Client
) -> None:
    """Beside it, it would take from what is heard now."""
    resume = threading.Event()

    def held(inputs) -> Iterator[dict]:
        first, *rest = in_chunks(inputs)
        yield first
        resume.wait(10)
        yield from rest

    fake.answer, fake.facts = held, FACTS
    chunks = client.stream(TWO)
    heard = [next(chunks)]
    time.sleep(0.3)
    assert asked(fake) == [FIRST]
    resume.set()
    heard += chunks
    assert asked(fake) == [FIRST, SECOND]
    assert sum(len(chunk.waveform) for chunk in heard) == len(speech(FIRST)) + len(speech(SECOND))
