"""What apps send and read, as their sources have it; see docs/gateway.md, Apps."""

import base64
import json

from support.gateway import Gateway

TEXT = "Good morning."


def test_livekit_gets_events_or_bytes_by_content_type(gateway: Gateway) -> None:
    asked = {"input": TEXT, "voice": "ash", "response_format": "mp3", "speed": 1.0}
    body = {**asked, "model": "gpt-4o-mini-tts", "instructions": "", "stream_format": "sse"}
    with gateway.http.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        audio = b""
        for line in answer.iter_lines():
            if line.startswith("data:"):
                event = json.loads(line[5:])
                if event["type"] == "speech.audio.delta":
                    audio += base64.b64decode(event["audio"])
                assert event["type"] != "speech.audio.error"
    plain = gateway.speak(**asked, model="tts-1")
    assert plain.headers["content-type"] == "audio/mpeg" and plain.content == audio


def test_pipecat_asks_for_pcm_in_openais_voices(gateway: Gateway) -> None:
    for voice in ("alloy", "marin", "cedar"):
        answer = gateway.speak(model="gpt-4o-mini-tts", voice=voice, response_format="pcm")
        assert len(answer.content) == 2 * 24_000


def test_open_webui_names_no_format_and_shows_the_message(gateway: Gateway) -> None:
    assert gateway.speak(model="tts-1").headers["content-type"] == "audio/mpeg"
    assert gateway.http.get("/v1/audio/models").json()["models"][0]["id"]
    assert gateway.http.get("/v1/audio/voices").json()["voices"][0]["name"]
    assert gateway.speak(voice="none").json()["error"]["message"].startswith("no voice 'none'")


def test_home_assistants_bridge_wants_the_header_in_the_first_chunk(gateway: Gateway) -> None:
    assert gateway.http.get("/health").status_code == 200
    body = {"model": "tts-1", "voice": "nova", "input": TEXT, "response_format": "wav"}
    with gateway.http.stream("POST", "/v1/audio/speech", json=body) as answer:
        first = next(answer.iter_raw())
    assert first[:4] == b"RIFF" and first[36:40] == b"data" and len(first) > 44


def test_llama_swaps_page_asks_for_the_voices_of_a_model(gateway: Gateway) -> None:
    found = gateway.http.get("/v1/audio/voices", params={"model": "tts-1"}).json()["voices"]
    assert all(isinstance(voice["id"], str) for voice in found)
    answer = gateway.speak(model="tts-1", voice=found[0]["id"])
    assert answer.headers["content-type"] == "audio/mpeg"


def test_sillytavern_asks_for_mp3_at_a_speed(gateway: Gateway) -> None:
    answer = gateway.speak(model="tts-1", voice="alloy", response_format="mp3", speed=1)
    assert answer.headers["content-type"] == "audio/mpeg" and answer.content
