"""Keys, limits, origins, ids: what every request passes before anything is done for it."""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import guards
from gateway.guards import hash_of
from gateway.settings import Settings, read_settings
from support.fake_server import FakeServer
from support.gateway import SPEECH, Gateway, chunks, running, tone
from support.launched import wait_until
from voicereel import ConfigurationError

PROJECT = Path(__file__).resolve().parents[2]
KEY = "vr-secret"


@pytest.fixture(scope="module")
def shared(fake: FakeServer, voices: Path, tmp_path_factory) -> Iterator[Gateway]:
    """With keys, one page that may call, and room for two requests."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# who: the app\n{hash_of('another')} other\n{hash_of(KEY)}  the app\n")
    with running(
        fake.url, voices, keys_file=keys, origins="https://app.example", max_streams=2,
        max_body_mib=1, instructions="ignore",
    ) as gateway:  # fmt: skip
        gateway.http.headers["Authorization"] = f"Bearer {KEY}"
        yield gateway


@pytest.fixture(scope="module")
def local(fake: FakeServer, voices: Path) -> Iterator[Gateway]:
    """Without keys, at loopback."""
    fake.answer = lambda _: chunks(tone(0.1))
    with running(fake.url, voices, hosts="known.example") as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Authorization": ""}, "there is no key"),
        ({"Authorization": "Bearer wrong"}, "the key is wrong"),
        ({"Authorization": f"Basic {KEY}"}, "the key is wrong"),
        ({"Authorization": "", "X-Api-Key": KEY}, "it came in x-api-key"),
        ({"Authorization": f"Bearer {hash_of(KEY)}"}, "the key is wrong"),
    ],
)
def test_a_caller_without_the_key_is_refused(
    gateway: Gateway, caplog, headers: dict, words: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="voicereel.gateway")
    answer = gateway.http.post("/v1/audio/speech", json=SPEECH, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
    assert error["message"] == f"{words}; expected the header Authorization: Bearer KEY"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text + caplog.text and "wrong" not in caplog.text.replace(words, "")


def test_the_key_opens_and_probes_need_none(gateway: Gateway) -> None:
    assert gateway.speak().status_code == 200
    for path, status in (("/health", 200), ("/health/ready", 200), ("/v1/models", 401)):
        assert gateway.http.get(path, headers={"Authorization": ""}).status_code == status


def test_only_pages_of_listed_origins_may_call(gateway: Gateway) -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
            "Authorization": ""}  # fmt: skip
    allowed = gateway.http.options("/v1/audio/speech", headers=asks)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    other = gateway.http.options("/v1/audio/speech", headers=asks | {"Origin": "https://b.c"})
    assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
    page = {"Origin": "https://b.c"}
    assert gateway.http.post("/v1/audio/speech", json=SPEECH, headers=page).status_code == 403
    assert gateway.http.get("/v1/models", headers=page).status_code == 200
    own = {"Origin": gateway.url}
    assert gateway.http.post("/v1/audio/speech", json=SPEECH, headers=own).status_code == 200
    refused = gateway.http.post("/v1/audio/speech", headers=asks)  # which the page can read
    assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(gateway: Gateway, chunked: bool) -> None:
    body = b"x" * (2**20 + 1)
    answer = gateway.http.post("/v1/audio/speech", content=iter([body]) if chunked else body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_more_requests_than_allowed_are_told_when_to_come_again(
    gateway: Gateway, fake: FakeServer
) -> None:
    resume = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        resume.wait(10)
        yield from chunks(tone(0.1))

    fake.answer = answer
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(gateway.speak) for _ in range(2)]
        wait_until(lambda: len(fake.requests) == 2)
        refused = gateway.speak()
        resume.set()
        assert [done.result().status_code for done in waiting] == [200, 200]
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert gateway.speak().status_code == 200


@pytest.mark.parametrize("given", ["", "has space", "a" * 129, "line\\break"])
def test_an_id_that_does_not_belong_into_a_log_is_replaced(gateway: Gateway, given: str) -> None:
    answer = gateway.http.get("/health", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] not in ("", given)


def test_ignored_fields_are_told(gateway: Gateway) -> None:
    answer = gateway.speak(instructions="Whisper.")
    assert (answer.status_code, answer.headers["x-ignored-fields"]) == (200, "instructions")
    assert "x-ignored-fields" not in gateway.speak(instructions="").headers


def test_neither_text_nor_traceback_is_logged(gateway: Gateway, fake: FakeServer, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    fake.answer = lambda _: iter([{"nonsense": tone(0.1)}])
    assert gateway.speak(input="A very private text.").status_code == 500
    assert gateway.speak(input="A very private text.", seed="private").status_code == 422
    ours = "".join(r.getMessage() for r in caplog.records if r.name.startswith("voicereel"))
    assert "private" not in ours and "Traceback" not in caplog.text
    assert "has no chunk_index" in ours or "has no " in ours


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:99", 200), ("[::1]:80", 200), ("tts.localhost", 200),
     ("Known.example:8080", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403),
     ("evil.example:8080", 403)],
)  # fmt: skip
def test_a_name_that_a_page_made_point_here_is_refused(
    local: Gateway, host: str, status: int
) -> None:
    for path in ("/", "/v1/models", "/health"):
        assert local.http.get(path, headers={"Host": host}).status_code == status
    page = {"Host": host, "Origin": f"http://{host}"}  # which is the page's own, to the browser
    assert local.http.post("/v1/audio/speech", json=SPEECH, headers=page).status_code == status


def test_with_keys_any_name_will_do(gateway: Gateway) -> None:
    assert gateway.http.get("/v1/models", headers={"Host": "tts.example"}).status_code == 200


@pytest.mark.parametrize("trickles", [False, True])
def test_a_body_that_does_not_come_in_time_is_given_up(
    fake: FakeServer, voices: Path, monkeypatch, trickles: bool
) -> None:
    monkeypatch.setattr(guards, "_PIECE_S", 60 if trickles else 0.3)
    with running(fake.url, voices, timeout_s=0.5 if trickles else 60) as gateway:
        address = urlsplit(gateway.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as caller:
            head = (
                b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
            )
            caller.sendall(head)
            for _ in range(4 if trickles else 1):
                caller.sendall(b"{")
                time.sleep(0.2 * trickles)
            assert caller.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_instructions_in_brackets(fake: FakeServer, voices: Path) -> None:
    from gateway.speech import ask_of

    settings = read_settings(servers=fake.url, voices=voices, instructions="inline")
    ask = ask_of({**SPEECH, "instructions": " Whisper. "}, settings)
    assert ask.prefix + ask.text == "[Whisper.] Good morning."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": 70_000}, "VOICEREEL_GATEWAY_PORT is 70000"),
        ({"servers": "http://a:1"}, "expected HOST:PORT"),
        ({"servers": "a"}, "expected HOST:PORT"),
        ({"origins": "*"}, "expected the origins"),
        ({"host": "0.0.0.0"}, "there are no keys"),
        ({"key_hashes": "secret"}, "1 of 1 keys are no SHA-256"),
        ({"keys_file": "/none"}, "VOICEREEL_GATEWAY_KEYS_FILE"),
        ({"instructions": "obey"}, "VOICEREEL_GATEWAY_INSTRUCTIONS is 'obey'"),
        ({"VOICEREEL_GATEWAY_ALIASES": "/none.yaml"}, "/none.yaml"),
    ],
)
def test_a_wrong_setting_is_named(given: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as error:
        read_settings(**given)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["voices: [a]", "voice: {a: b}", "]", "models: {a: b}"])
def test_aliases_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "aliases.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"aliases\.yaml"):
        read_settings(VOICEREEL_GATEWAY_ALIASES=path)


def test_other_machines_are_served_with_keys_or_when_said_so() -> None:
    assert read_settings(host="0.0.0.0", key_hashes=hash_of("k")).hashes == {hash_of("k")}
    assert read_settings(host="0.0.0.0", open=True).open
    assert read_settings(host="::1").host == "::1"
    printed = read_settings(servers="grpc://127.0.0.1:1, [::1]:2").urls  # by the ready line
    assert printed == ["grpc://127.0.0.1:1", "[::1]:2"]


def test_every_variable_is_in_the_table() -> None:
    table = (PROJECT / "docs" / "gateway.md").read_text("utf-8")
    names = [field.alias or f"VOICEREEL_GATEWAY_{name.upper()}"
             for name, field in Settings.model_fields.items()]  # fmt: skip
    assert [name for name in names if f"| `{name}` |" not in table] == []


@pytest.mark.slow
def test_a_key_can_be_made(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'client'}"}
    command = [sys.executable, "-m", "gateway", "key"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    key, found = (line.split()[-1] for line in done.stdout.splitlines())
    assert hash_of(key) == found and len(key) > 40
