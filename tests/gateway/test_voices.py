"""Voices that callers add, ask for and delete."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from support.fake_server import RATE_HZ, FakeServer, inputs_of
from support.gateway import Gateway, chunks, running, tone
from voicereel import VoiceFeatures
from voicereel.library import VoiceLibrary

WORDS = "Please bring me seven candles."


def recording(seconds: float = 2.0, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds), RATE_HZ, format=format, subtype=subtype)
    return file.getvalue()


def of_rate(rate_hz: int) -> bytes:
    """A FLAC file whose header says another rate: 20 bits at byte 18. Source: RFC 9639, 8.2."""
    raw = bytearray(recording(format="FLAC"))
    raw[18:21] = ((rate_hz << 4) | raw[20] & 0xF).to_bytes(3, "big")
    return bytes(raw)


def by_ffmpeg(muxer: str, codec: str, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        samples = (tone(2.0) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        to_rate = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate_hz)
        for each in to_rate.resample(frame):
            each.pts = None
            container.mux(stream.encode(each))
        container.mux(stream.encode(None))
    return file.getvalue()


def encoding(inputs: dict) -> Iterator[dict]:
    """Answer `fish_encode` with codes that tell recordings apart, and speech with a tone."""
    if "reference_audio" not in inputs:
        yield from chunks(tone(0.2))
        return
    total = int(np.abs(inputs["reference_audio"]).sum()) % 1000
    yield {
        "codes": np.full((1, 10, 40), total, np.int64),
        "reference_frames": np.array([[40]], np.int32),
        "checkpoint_id": np.array([[b"fake"]], np.object_),
    }


@pytest.fixture(scope="module")
def shared(fake: FakeServer, voices: Path) -> Iterator[Gateway]:
    with running(fake.url, voices, max_voices=3) as gateway:
        yield gateway


@pytest.fixture
def folder(voices: Path) -> Path:
    """The voices folder, which does not exist yet."""
    shutil.rmtree(voices, ignore_errors=True)
    return voices


@pytest.fixture
def gateway(fake: FakeServer, shared: Gateway, folder: Path) -> Gateway:
    fake.answer = encoding
    fake.requests.clear()
    return shared


def add(gateway: Gateway, name: str = "Carol", data: bytes | None = None, **fields: object):
    form = {"name": name, "transcript": WORDS, "consent": "Carol, 2026-11-26", **fields}
    files = {"audio_sample": ("a.wav", recording() if data is None else data)}
    return gateway.http.post(
        "/v1/audio/voices", data={k: v for k, v in form.items() if v is not None}, files=files
    )


def test_a_voice_is_added_asked_for_and_deleted(
    gateway: Gateway, fake: FakeServer, folder: Path
) -> None:
    added = add(gateway)
    assert added.status_code == 200, added.text
    voice = added.json()
    assert voice["object"] == "audio.voice" and voice["name"] == "Carol"
    assert voice["id"].startswith("voice_") and voice["created_at"] > 1_700_000_000
    assert gateway.http.get("/v1/audio/voices/Carol").json() == voice
    assert gateway.http.get(f"/v1/audio/voices/{voice['id']}").json() == voice
    assert voice in gateway.http.get("/v1/audio/voices").json()["voices"]
    features = VoiceFeatures.load(folder / "Carol.npz")
    assert features.texts == (WORDS,)
    assert json.loads((folder / "Carol.json").read_text())["consent"] == "Carol, 2026-11-26"
    for asked in ("Carol", {"id": voice["id"]}, voice["id"]):
        fake.requests.clear()
        assert gateway.speak(voice=asked).status_code == 200
        sent = inputs_of(fake.requests[0])
        np.testing.assert_array_equal(sent["reference_codes"][0], features.codes)
    deleted = gateway.http.delete(f"/v1/audio/voices/{voice['id']}")
    assert deleted.json() == {"object": "audio.voice.deleted", "id": voice["id"], "deleted": True}
    assert list(folder.iterdir()) == []
    assert gateway.error(voice="Carol")[0] == 404
    assert gateway.http.delete("/v1/audio/voices/Carol").status_code == 404


def test_the_same_recording_has_the_same_id_and_is_encoded_once(
    gateway: Gateway, fake: FakeServer
) -> None:
    short, long = recording(2.5), recording(3.5)
    first, second = (add(gateway, name, short).json() for name in ("Carol", "Dave"))
    other = add(gateway, "Eve", long).json()
    assert first["id"] == second["id"] != other["id"]
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    "data",
    [
        recording(format="FLAC"),
        recording(format="OGG", subtype="VORBIS"),
        recording(format="MP3", subtype="MPEG_LAYER_III"),
        by_ffmpeg("adts", "aac", RATE_HZ),
        by_ffmpeg("webm", "libopus", 48_000),
        by_ffmpeg("mp4", "aac", RATE_HZ),
    ],
    ids=["flac", "ogg", "mp3", "aac", "webm", "mp4"],
)
def test_recordings_of_all_formats_are_read(
    gateway: Gateway, fake: FakeServer, data: bytes
) -> None:
    assert add(gateway, data=data).status_code == 200
    audio = inputs_of(fake.requests[0])["reference_audio"][0]
    assert len(audio) / RATE_HZ == pytest.approx(2.0, abs=0.12)
    spectrum = np.abs(np.fft.rfft(audio))
    assert spectrum.argmax() * RATE_HZ / len(audio) == pytest.approx(220, abs=2)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", recording())
    return file.getvalue()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1/secret\n"


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (archive(), 422, "no audio"),
        (b"", 422, "no audio"),
        (b"\x1a\x45\xdf\xa3nonsense", 422, "no audio"),
        (PLAYLIST, 422, "no audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 422, "no audio"),
        (recording()[:1000], 422, "lasts 0.01 s"),
        (recording(0.1), 422, "lasts 0.10 s, expected 1 to 30 s"),
        (recording(32.0, "FLAC"), 422, "lasts more s"),
        (of_rate(655_350), 422, "655350 samples a second, expected 4000 to 192000"),
        (of_rate(1), 422, "cannot be read"),
        (b"RIFF" + bytes(10 * 2**20), 413, "10.0 MiB, expected at most 10"),
    ],
)
def test_a_recording_that_is_none_is_refused(
    gateway: Gateway, fake: FakeServer, folder: Path, data: bytes, status: int, words: str
) -> None:
    answer = add(gateway, data=data)
    assert answer.status_code == status and words in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "audio_sample"
    assert "/tmp" not in answer.text
    assert fake.requests == [] and not folder.exists()


def test_silence_and_an_hour_are_refused(gateway: Gateway) -> None:
    for samples, words in ((np.zeros(2 * RATE_HZ), "is silent"), (np.zeros(3600 * 8000), "more s")):
        file = io.BytesIO()
        soundfile.write(file, samples, RATE_HZ if words[0] == "i" else 8000, format="FLAC")
        assert words in add(gateway, data=file.getvalue()).json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", ".hidden", "", " ", "a" * 65, "a\0b", "C:\\x", "alloy", "default"]
)
def test_a_name_that_is_no_name_is_refused(gateway: Gateway, folder: Path, name: str) -> None:
    answer = add(gateway, name)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "name")
    assert not folder.exists() and not (folder.parent / "x.npz").exists()


@pytest.mark.parametrize("field", ["name", "transcript", "consent"])
def test_a_field_that_is_missing_is_named(gateway: Gateway, field: str) -> None:
    error = add(gateway, **{field: None}).json()["error"]
    assert (error["param"], error["code"]) == (field, "missing_field")


def test_other_bodies_are_refused(gateway: Gateway) -> None:
    post = gateway.http.post
    assert post("/v1/audio/voices", json={"name": "x"}).status_code == 400
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert post("/v1/audio/voices", content=b"--y\r\n", headers=headers).status_code in (400, 422)
    answer = post("/v1/audio/voices", data={"name": "x"}, files={"more": b"1"})
    assert answer.json()["error"]["code"] == "unknown_field"


def test_a_name_that_is_taken_is_kept_and_the_folder_is_bounded(gateway: Gateway) -> None:
    first = add(gateway).json()
    assert add(gateway, data=recording(3.0)).status_code == 409
    assert gateway.http.get("/v1/audio/voices/Carol").json() == first
    assert [add(gateway, name).status_code for name in "ABC"] == [200, 200, 507]


def test_voices_of_the_command_line_are_there_at_once(gateway: Gateway, folder: Path) -> None:
    voice = VoiceFeatures(np.zeros((10, 40), np.int64), (40,), (WORDS,), "fake")
    path = VoiceLibrary(folder).add("Ada", voice)
    assert "Ada" in [v["name"] for v in gateway.http.get("/v1/audio/voices").json()["voices"]]
    assert gateway.speak(voice="Ada").status_code == 200
    path.write_bytes(b"damaged")
    os.utime(path, (1, 1))
    status, error = gateway.error(voice="Ada")
    assert (status, error["code"]) == (500, "voice_damaged")
    assert str(folder) not in error["message"]


def test_an_alias_speaks_for_its_voice_and_for_no_other(
    fake: FakeServer, folder: Path, tmp_path: Path
) -> None:
    fake.answer = encoding
    fake.requests.clear()
    aliases = tmp_path / "aliases.yaml"
    aliases.write_text("voices: {alloy: Ada, echo: Gone}\nmodels: [my-tts]\n")
    voice = VoiceFeatures(np.ones((10, 40), np.int64), (40,), (WORDS,), "fake")
    VoiceLibrary(folder).add("Ada", voice)
    with running(fake.url, folder, VOICEREEL_GATEWAY_ALIASES=aliases) as gateway:
        assert gateway.speak(model="my-tts", voice="alloy").status_code == 200
        sent = inputs_of(fake.requests[0])["reference_codes"]
        np.testing.assert_array_equal(sent[0], voice.codes)
        status, error = gateway.error(model="my-tts", voice="echo")
        assert status == 404 and "an alias of 'Gone'" in error["message"]
        assert gateway.error(model="tts-1")[0] == 404
