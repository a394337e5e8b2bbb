"""What people send: odd characters, silence around a voice, soft voices, JSON by curl."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from ensemble.contract.facts import Facts
from support.raw import infer
from voicereel import Client

pytestmark = pytest.mark.server
RATE = 44_100
TEXT = "Good morning, Bob."


def recording(seconds: float, pitch: float = 110.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9))
    return (0.2 * tone * np.sin(7 * time) ** 2).astype(np.float32)


def generate(server, model: str, values: dict, ending: str = "generate") -> list[dict]:
    """What curl gets from Triton's generate extension: JSON without shapes."""
    url = f"http://{server.http_url.removeprefix('http://')}/v2/models/{model}/{ending}"
    with urllib.request.urlopen(url, json.dumps(values).encode()) as answer:
        lines = answer.read().decode().split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.strip()]


def test_the_client_knows_how_the_checkpoint_speaks(server, repository) -> None:
    facts = Facts.load(repository / "fish_llama" / "1")
    with Client(server.grpc_url) as client:
        assert client.speech_facts().letters_per_s == facts.letters_per_s
        assert client.checkpoint().checkpoint_id == facts.checkpoint_id
    with Client(server.http_url.removeprefix("http://"), "http") as client:
        assert client.speech_facts().letters_per_s == facts.letters_per_s
        assert client.checkpoint().checkpoint_id == facts.checkpoint_id


def test_a_voice_by_curl(server) -> None:
    """Codes as generate answers them, flat, are taken by every door that takes codes."""
    audio = recording(1.0)
    spoken = {"text": TEXT, "seed": 3, "max_new_tokens": 6, "reference_text": "What is said."}
    (voice,) = generate(server, "fish_encode", {"reference_audio": audio.tolist()})
    shaped = infer(server, "fish_encode", reference_audio=audio)
    assert voice["codes"] == shaped["codes"].ravel().tolist()
    given = {name: voice[name] for name in ("codes", "reference_frames", "checkpoint_id")}
    (unary,) = generate(server, "fish_tts", spoken | given)
    expected = infer(
        server, "fish_tts", **spoken, reference_codes=shaped["codes"],
        reference_frames=shaped["reference_frames"], checkpoint_id=shaped["checkpoint_id"][0],
    )  # fmt: skip
    np.testing.assert_allclose(unary["audio"], expected["audio"], atol=1e-6)
    chunks = generate(server, "fish_tts_stream", spoken | given, "generate_stream")
    samples = [chunk["audio"][: chunk["num_samples"]] for chunk in chunks]
    assert sum(map(len, samples)) == len(expected["audio"])


def test_two_recordings_by_curl(server) -> None:
    first, second = recording(0.7), recording(1.6, pitch=190)
    flat = [generate(server, "fish_encode", {"reference_audio": a.tolist()})[0]
            for a in (first, second)]  # fmt: skip
    spoken = {"text": TEXT, "reference_text": ["One.", "Two."]}
    frames = [voice["reference_frames"] for voice in flat]
    (prompt,) = generate(server, "fish_prompt", spoken | {
        "codes": flat[0]["codes"] + flat[1]["codes"], "reference_frames": frames,
    })  # fmt: skip
    shaped = [infer(server, "fish_encode", reference_audio=a)["codes"] for a in (first, second)]
    codes = np.concatenate([c[:, :n] for c, n in zip(shaped, frames, strict=True)], axis=1)
    expected = infer(
        server, "fish_prompt", text=TEXT, reference_text=[b"One.", b"Two."],
        reference_codes=codes, reference_frames=frames,
    )  # fmt: skip
    assert prompt["prompt"] == expected["prompt"].ravel().tolist()


def test_generate_on_a_stream_names_generate_stream(server) -> None:
    """Triton's own words, with status 200; the pages say so."""
    several = {"max_new_tokens": 12, "first_chunk_frames": 2, "max_chunk_frames": 2}
    (answer,) = generate(server, "fish_tts_stream", {"text": TEXT, **several})
    assert "use generate stream" in answer["error"]


def test_a_refusal_by_curl_says_why(server) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        generate(server, "fish_tts", {"text": "..."})
    assert "no words to say" in json.load(refused.value)["error"]


def test_odd_characters_are_folded_before_the_tokenizer(server) -> None:
    plain = infer(server, "fish_prompt", text=TEXT)["prompt"]
    odd = "Ｇood\u200b  mor\u2060ning,\u00a0Bob．".replace("．", ".")
    np.testing.assert_array_equal(infer(server, "fish_prompt", text=odd)["prompt"], plain)


def test_silence_and_softness_do_not_change_a_voice(server) -> None:
    voice = recording(2.0)
    around = np.pad(voice, 4 * RATE)
    around += np.random.default_rng(0).normal(0, 1e-4, len(around))
    assert infer(server, "fish_encode", reference_audio=voice)["reference_frames"][0] == 44
    cut = infer(server, "fish_encode", reference_audio=around.astype(np.float32))
    assert 44 <= cut["reference_frames"][0] <= 56
    codes = [
        infer(server, "fish_encode", reference_audio=voice * np.float32(gain))["codes"]
        for gain in (0.02, 0.008)
    ]
    assert (codes[0] == codes[1]).mean() > 0.9
