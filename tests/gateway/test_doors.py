"""The doors beside speech: what apps ask before they speak, and what is no door."""

from support.fake_server import FakeServer
from support.gateway import Gateway


def test_models_and_voices_as_apps_read_them(gateway: Gateway) -> None:
    models = gateway.http.get("/v1/models").json()
    assert models["object"] == "list"
    ids = [model["id"] for model in models["data"]]
    assert ids == ["voicereel", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
    assert {"id", "object", "created", "owned_by"} == set(models["data"][0])
    assert gateway.http.get("/v1/models/tts-1").json()["id"] == "tts-1"
    assert gateway.http.get("/v1/models/none").status_code == 404
    assert gateway.http.get("/v1/audio/models").json()["models"][0]["id"] == "voicereel"
    voices = gateway.http.get("/v1/audio/voices").json()["voices"]
    assert {"id": "alloy", "name": "alloy"} in voices and len(voices) == 14


def test_health(gateway: Gateway, fake: FakeServer) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert gateway.http.get(path).status_code == 200
    fake.not_ready.add("fish_tts")
    try:
        assert gateway.http.get("/health/ready").status_code == 503
        assert gateway.http.get("/health/live").status_code == 200
    finally:
        fake.not_ready.clear()


def test_unknown_paths_and_methods_have_the_same_errors(gateway: Gateway) -> None:
    for method, path, status in (("GET", "/v1/nix", 404), ("GET", "/v1/audio/speech", 405)):
        answer = gateway.http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
