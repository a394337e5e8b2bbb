"""Scripts spoken by a server that says what a test wants: order, gaps, captions, failures."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from support.fake_server import RATE_HZ, FakeServer, Refusal, chunk, inputs_of, whole
from voicereel import (
    Cancelled,
    Client,
    InvalidRequest,
    ReelPiece,
    ServerError,
    VoiceFeatures,
    stream_script,
    synthesize_script,
    synthesize_script_async,
)
from voicereel.cli import app

SCRIPT = [
    {"speaker_id": "A", "text": "1"},
    {"speaker_id": "B", "text": "22222"},
    {"speaker_id": "A", "text": "333"},
    {"speaker_id": "B", "text": "4444"},
]
VOICES: dict[str, VoiceFeatures | str | None] = {"A": None, "B": None}
LENGTHS = (10, 50, 30, 40)  # samples of each: 10 for each character


def text_of(inputs: dict[str, np.ndarray]) -> str:
    return inputs["text"].item().decode()


def speech(text: str) -> np.ndarray:
    """Ten samples for each character, of the value of the first."""
    return np.full(10 * len(text), int(text[0]) / 10, np.float32)


def spoken(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    yield whole(speech(text_of(inputs)))


def streamed(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Two chunks, the second one first."""
    text = text_of(inputs)
    for index in (1, 0):
        made = chunk(index, samples=5 * len(text), is_last=index == 1)
        made["audio"][:] = int(text[0]) / 10
        yield made


def failing(text: str, answer: Any = spoken, message: str = "fish_llama: boom") -> Any:
    def answers(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if text_of(inputs) == text:
            raise Refusal(grpc.StatusCode.INTERNAL, message)
        yield from answer(inputs)

    return answers


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.answer = spoken
        yield server


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.url, timeout_s=10) as client:
        yield client


def joined(*parts: int | str) -> np.ndarray:
    """Speech, and samples of silence."""
    return np.concatenate(
        [speech(p) if isinstance(p, str) else np.zeros(p, np.float32) for p in parts]
    )


def test_order_and_captions(client: Client) -> None:
    reel = synthesize_script(client, SCRIPT, VOICES)
    np.testing.assert_array_equal(reel.audio.waveform, joined("1", "22222", "333", "4444"))
    assert (reel.audio.sample_rate_hz, reel.audio.finish_reason) == (RATE_HZ, "stop")
    ends = np.cumsum(LENGTHS).tolist()
    assert reel.captions == [
        {
            "start": (end - length) / RATE_HZ,
            "end": end / RATE_HZ,
            "speaker": segment["speaker_id"],
            "text": segment["text"],
        }
        for end, length, segment in zip(ends, LENGTHS, SCRIPT, strict=True)
    ]


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_silence(fake: FakeServer, client: Client, way: str) -> None:
    script = [SCRIPT[0], SCRIPT[1] | {"silence_after_s": 0}, SCRIPT[2], SCRIPT[3]]
    if way == "whole":
        audio, captions = synthesize_script(client, script, VOICES, silence_s=7 / RATE_HZ)
        waveform = audio.waveform
    else:
        fake.answer = streamed
        pieces = list(stream_script(client, script, VOICES, silence_s=7 / RATE_HZ))
        waveform = np.concatenate([piece.waveform for piece in pieces])
        captions = [piece.caption for piece in pieces if piece.caption]
    np.testing.assert_array_equal(waveform, joined("1", 7, "22222", "333", 7, "4444"))
    for caption in captions:  # to the sample
        start, end = (round(caption[edge] * RATE_HZ) for edge in ("start", "end"))
        np.testing.assert_array_equal(waveform[start:end], speech(caption["text"]))


def test_silence_after_the_last_segment_is_for_it_to_say(client: Client) -> None:
    script = [SCRIPT[0] | {"silence_after_s": 9 / RATE_HZ}]
    audio, captions = synthesize_script(client, script, VOICES, silence_s=1)
    np.testing.assert_array_equal(audio.waveform, joined("1", 9))
    assert captions[0]["end"] == 10 / RATE_HZ


def test_options_and_voices_reach_their_segments(fake: FakeServer, client: Client) -> None:
    features = VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id")
    script = [SCRIPT[0], SCRIPT[1] | {"options": {"seed": 9, "temperature": 0.5, "top_p": None}}]
    synthesize_script(client, script, {"A": None, "B": features, "C": None}, seed=7, top_p=0.25)
    got = {text_of(inputs): inputs for inputs in map(inputs_of, fake.requests)}
    assert {name: got["1"][name].item() for name in ("seed", "top_p")} == {"seed": 7, "top_p": 0.25}
    assert "temperature" not in got["1"] and "reference_codes" not in got["1"]
    assert (got["22222"]["seed"].item(), got["22222"]["temperature"].item()) == (9, 0.5)
    assert "top_p" not in got["22222"]
    np.testing.assert_array_equal(got["22222"]["reference_codes"][0], features.codes)


def test_longest_first_and_never_too_many(fake: FakeServer, client: Client) -> None:
    flying, most = [0], [0]
    lock = threading.Lock()

    def slow(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.05)
        with lock:
            flying[0] -= 1
        yield from spoken(inputs)

    fake.answer = slow
    for how, expected in (({"max_workers": 2}, 2), ({"parallel": False}, 1), ({}, 4)):
        most[0] = 0
        fake.requests.clear()
        audio, _ = synthesize_script(client, SCRIPT, VOICES, **how)
        assert most[0] == expected
        np.testing.assert_array_equal(audio.waveform, joined("1", "22222", "333", "4444"))
        if expected == 1:
            texts = [text_of(inputs_of(request)) for request in fake.requests]
            assert texts == ["22222", "4444", "333", "1"]


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_failed_segment_is_named(fake: FakeServer, client: Client, way: str) -> None:
    text = "3" * 30 + " and much more of it"
    script = [*SCRIPT[:2], SCRIPT[2] | {"text": text}, SCRIPT[3]]
    heard: list[ReelPiece] = []
    with pytest.raises(ServerError) as raised:
        if way == "whole":
            fake.answer = failing(text)
            synthesize_script(client, script, VOICES)
        else:
            fake.answer = failing(text, streamed)
            for piece in stream_script(client, script, VOICES):
                heard.append(piece)
    assert str(raised.value) == (
        "segment 3 of 4 (A: '333333333333333333333333333333 and mu...'): fish_llama: boom"
    )
    if way == "streamed":  # what comes before it is heard first
        assert sum(len(piece.waveform) for piece in heard) == 60


def test_errors_stay_of_their_kind(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("333", message="fish_prompt: invalid request: text is bad")
    with pytest.raises(InvalidRequest, match="segment 3 of 4"):
        synthesize_script(client, SCRIPT, VOICES)


def test_nothing_is_begun_after_a_failure(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("22222")
    with pytest.raises(ServerError, match="segment 2 of 4"):
        synthesize_script(client, SCRIPT, VOICES, parallel=False)
    assert len(fake.requests) == 1


def test_skipping_leaves_a_gap_that_says_so(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("22222")
    audio, captions = synthesize_script(
        client, SCRIPT, VOICES, on_error="skip", silence_s=5 / RATE_HZ
    )
    expected = joined("1", 5 + RATE_HZ + 5, "333", 5, "4444")
    np.testing.assert_array_equal(audio.waveform, expected)
    assert captions[1] == {
        "start": 15 / RATE_HZ,
        "end": (15 + RATE_HZ) / RATE_HZ,
        "speaker": "B",
        "text": "[not spoken: ServerError] 22222",
        "error": "segment 2 of 4 (B: '22222'): fish_llama: boom",
    }
    assert round(captions[2]["start"] * RATE_HZ) == 20 + RATE_HZ


def test_skipping_in_mid_speech_keeps_what_was_heard(fake: FakeServer, client: Client) -> None:
    def breaks_off(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        chunks = sorted(streamed(inputs), key=lambda c: c["chunk_index"].item())
        yield from chunks[:1] if text_of(inputs) == "22222" else chunks

    fake.answer = breaks_off
    pieces = list(stream_script(client, SCRIPT[:3], VOICES, on_error="skip"))
    waveform = np.concatenate([piece.waveform for piece in pieces])
    np.testing.assert_array_equal(waveform, joined("1", "22222", RATE_HZ, "333")[_without(35, 60)])
    ends = [piece for piece in pieces if piece.caption]
    assert [piece.finish_reason for piece in ends] == ["stop", "", "stop"]
    assert "audio is incomplete" in str(ends[1].error)
    assert round(ends[2].caption["start"] * RATE_HZ) == 35 + RATE_HZ  # type: ignore[index]


def _without(start: int, end: int) -> np.ndarray:
    kept = np.ones(10 + 50 + RATE_HZ + 30, bool)
    kept[start:end] = False
    return kept


def test_when_all_fail_skipping_does_not_help(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("1")
    with pytest.raises(ServerError, match="segment 1 of 1"):
        synthesize_script(client, SCRIPT[:1], VOICES, on_error="skip")


def test_a_reel_is_cut_off_if_a_segment_is(fake: FakeServer, client: Client) -> None:
    def cut(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        reason = b"length" if text_of(inputs) == "333" else b"stop"
        for answer in spoken(inputs):
            yield answer | {"finish_reason": np.array([[reason]], np.object_)}

    fake.answer = cut
    assert synthesize_script(client, SCRIPT, VOICES).audio.finish_reason == "length"


def test_two_sample_rates_are_an_error(fake: FakeServer, client: Client) -> None:
    def other(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        rate = 24_000 if text_of(inputs) == "333" else RATE_HZ
        for answer in spoken(inputs):
            yield answer | {"sample_rate": np.array([[rate]], np.int32)}

    fake.answer = other
    with pytest.raises(ServerError, match=r"segment 3 of 4 .* 24000 Hz, expected 44100 Hz"):
        synthesize_script(client, SCRIPT, VOICES)


def test_what_is_wrong_is_found_before_any_work(
    fake: FakeServer, client: Client, tmp_path: Path
) -> None:
    nobody = [*SCRIPT, {"speaker_id": "EVE", "text": "5"}]
    unknown = r"segment 5 of 5 \(EVE: '5'\): there are no features of speaker 'EVE', only A, B"
    for speak in (synthesize_script, stream_script):
        with pytest.raises(InvalidRequest, match=unknown):
            speak(client, nobody, VOICES)
        with pytest.raises(InvalidRequest, match=r"'B' are voice\.wav, expected a \.npz"):
            speak(client, SCRIPT, VOICES | {"B": "voice.wav"})
        with pytest.raises(InvalidRequest, match="no such file"):
            speak(client, SCRIPT, VOICES | {"B": str(tmp_path / "voice.npz")})
        with pytest.raises(InvalidRequest, match="'B' are int, expected VoiceFeatures"):
            speak(client, SCRIPT, VOICES | {"B": 3})  # type: ignore[dict-item]
        with pytest.raises(InvalidRequest, match="script: segment 2: text is missing"):
            speak(client, [SCRIPT[0], {"speaker_id": "A"}], VOICES)
        for wrong in ({"max_workers": 0}, {"on_error": "ignore"}, {"silence_s": -1.0}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, expected"):
                speak(client, SCRIPT, VOICES, **wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no option speed"):
            speak(client, SCRIPT, VOICES, speed=2)  # type: ignore[call-arg]
    assert fake.requests == []


def test_a_stream_is_heard_before_the_script_is_done(fake: FakeServer, client: Client) -> None:
    go_on = threading.Event()

    def waiting(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if text_of(inputs) != "1":
            go_on.wait(10)
        yield from streamed(inputs)

    fake.answer = waiting
    pieces = stream_script(client, SCRIPT, VOICES)
    first = [next(pieces) for _ in range(3)]
    assert [(p.segment, len(p.waveform), bool(p.caption)) for p in first] == [
        (0, 5, False), (0, 5, False), (0, 0, True)
    ]  # fmt: skip
    go_on.set()
    rest = list(pieces)
    assert [piece.segment for piece in rest] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_closing_a_stream_cancels(fake: FakeServer, client: Client) -> None:
    def endless(_: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for index in range(1000):
            yield chunk(index)
            time.sleep(0.01)

    fake.answer = endless
    pieces = stream_script(client, SCRIPT * 5, VOICES, max_workers=2)
    next(pieces)
    pieces.close()
    assert fake.cancelled.wait(5)
    time.sleep(0.2)
    # Beside them come the client's own calls of fish_cancel, early or late.
    assert [r.model_name for r in list(fake.requests)].count("fish_tts_stream") == 2


def test_giving_up(fake: FakeServer, client: Client) -> None:
    stop = threading.Event()
    with pytest.raises(Cancelled, match="given up"):
        synthesize_script(
            client, SCRIPT, VOICES, parallel=False, stop=stop, progress=lambda *_: stop.set()
        )
    assert len(fake.requests) == 1


def test_progress(client: Client) -> None:
    told: list[tuple[int, float]] = []
    synthesize_script(client, SCRIPT, VOICES, progress=lambda *done: told.append(done))
    assert sorted(told) == [(n, length / RATE_HZ) for n, length in enumerate(LENGTHS)]


def test_async(fake: FakeServer, client: Client) -> None:
    async def both() -> Any:
        return await asyncio.gather(
            synthesize_script_async(client, SCRIPT[:2], VOICES),
            synthesize_script_async(client, SCRIPT[2:], VOICES, silence_s=3 / RATE_HZ),
        )

    first, second = asyncio.run(both())
    np.testing.assert_array_equal(first.audio.waveform, joined("1", "22222"))
    np.testing.assert_array_equal(second.audio.waveform, joined("333", 3, "4444"))


def test_cancelling_async_begins_no_more(fake: FakeServer, client: Client) -> None:
    def slow(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        time.sleep(0.3)
        yield from spoken(inputs)

    fake.answer = slow

    async def impatient() -> None:
        speaking = synthesize_script_async(client, SCRIPT, VOICES, parallel=False)
        await asyncio.wait_for(speaking, 0.1)

    with pytest.raises((asyncio.TimeoutError, TimeoutError)):
        asyncio.run(impatient())
    assert len(fake.requests) == 1


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def play(tmp_path: Path) -> list[object]:
    """Arguments of the command, with files that exist."""
    features = VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id")
    features.save(tmp_path / "v.npz")
    (tmp_path / "play.yaml").write_text(json.dumps(SCRIPT))
    voices = ["--voice", f"A={tmp_path / 'v.npz'}", "--voice", f"B={tmp_path / 'v.npz'}"]
    return ["script", tmp_path / "play.yaml", "-o", tmp_path / "reel.wav", *voices]


def test_command(fake: FakeServer, tmp_path: Path, play: list[object]) -> None:
    captions = tmp_path / "reel.srt"
    told = ["--url", fake.url, "--captions", captions, "--seed", 3, "--silence", 0.5, "--json"]
    code, out, err = run(*play, *told)
    assert code == 0, err
    said = json.loads(out)
    frames = sum(LENGTHS) + 3 * RATE_HZ // 2
    assert said["audio_s"] == frames / RATE_HZ
    assert said["rtf"] == pytest.approx(said["wall_s"] / said["audio_s"])
    expected = {
        "file": str(tmp_path / "reel.wav"),
        "captions": str(captions),
        "segments": 4,
        "speakers": 2,
        "skipped": [],
    }
    assert {name: said[name] for name in expected} == expected
    assert soundfile.info(tmp_path / "reel.wav").frames == frames
    assert captions.read_text().startswith("1\n00:00:00,000 --> 00:00:00,000\nA: 1\n\n2\n")
    assert {inputs_of(request)["seed"].item() for request in fake.requests} == {3}


def test_command_that_skips_says_so(fake: FakeServer, play: list[object]) -> None:
    fake.answer = failing("333")
    assert run(*play, "--url", fake.url)[0] == 1
    code, out, err = run(*play, "--url", fake.url, "--on-error", "skip", "--json")
    assert code == 0
    assert json.loads(out)["skipped"] == ["segment 3 of 4 (A: '333'): fish_llama: boom"]
    assert "skipped segment 3 of 4" in err


def test_command_refuses_before_the_network(tmp_path: Path, play: list[object]) -> None:
    (tmp_path / "play.txt").write_text("A: hello\nwhat?\n")
    for arguments, message in (
        ([*play, "--captions", "reel.txt"], "expected a name in .srt, .vtt, .json"),
        ([*play, "--voice", "B"], "--voice is 'B', expected SPEAKER=VOICE"),
        ([*play, "-o", "reel.xyz"], "expected a name in .wav"),
        ([*play[:4], "--voice", "B=b.npz"], "no voice 'A': it is neither a file nor in"),
        ([play[0], tmp_path / "play.txt", *play[2:]], "play.txt, line 2: got 'what?'"),
    ):
        code, _, err = run(*arguments, "--url", "127.0.0.1:1")
        assert (code, message in err) == (2, True), err
