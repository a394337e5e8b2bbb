"""Tries the doors that callers use, over HTTP: are they ready, open, and do they speak?

What the models behind them are asked is in `probe.py`.
"""

import http.client
import json
import re
from pathlib import Path

from ensemble.contract import errors
from launch.tritonserver import LaunchError

# Requests without words, which are refused, but only behind the door's way to its own server.
_WORDLESS: dict[str, dict[str, object]] = {
    "fish_tts": {"text": ""},
    "fish_clone": {"text": "", "reference_text": "", "reference_audio": [0.0]},
}
# One frame of speech: it goes through fish_prompt, fish_llama and fish_decoder.
_SPOKEN: dict[str, object] = {"text": "Hello.", "max_new_tokens": 1}
_FULL = re.compile("exceeds maximum queue size|timeout expired", re.IGNORECASE)
_PAGE_S = 5
_TIMEOUT_S = 60  # the first request of a process may be slow


def try_doors(repository: Path, host: str, http_port: int) -> None:
    """Call each door that reaches its own server for every request once.

    Raises:
        LaunchError: If a door does not reach its own server.
    """
    for model, asked in _WORDLESS.items():
        if not _is_in(repository, model):
            continue
        _, answer = _post(host, http_port, f"{model}/generate", asked, _TIMEOUT_S)
        if ": invalid request: " not in answer:
            raise LaunchError(
                f"{model} does not reach its own server: {answer.strip()}. "
                "Set VOICEREEL_GRPC_URL=HOST:PORT to where this server's gRPC service is"
            )


def speak(host: str, http_port: int, timeout_s: float) -> str:
    """Have one frame spoken, for about 30 ms; returns why that failed, or "".

    A server that is full is alive, and says so.
    """
    status, answer = _post(host, http_port, "fish_tts/generate", _SPOKEN, timeout_s)
    return "" if _has_spoken(status, answer) else f"fish_tts: {answer.strip()[:500]}"


def is_ready(host: str, http_port: int, timeout_s: float) -> str:
    """What a server says that is not ready; "" from one that is."""
    status, answer = _ask(host, http_port, "GET", "/v2/health/ready", None, timeout_s)
    return "" if status == http.HTTPStatus.OK else f"not ready: {answer.strip() or status}"


def is_live(host: str, http_port: int, timeout_s: float) -> str:
    """Why nobody answers at all; "" if somebody does."""
    status, answer = _ask(host, http_port, "GET", "/v2/health/live", None, timeout_s)
    return "" if status else answer


def page(host: str, port: int, path: str) -> str | None:
    """What an HTTP port answers to a GET; None if it does not, or with an error."""
    status, answer = _ask(host, port, "GET", path, None, _PAGE_S)
    return answer if status == http.HTTPStatus.OK else None


def _is_in(repository: Path, model: str) -> bool:
    return (repository / model / "config.pbtxt").is_file()


def _has_spoken(status: int, answer: str) -> bool:
    """Whether speech came, or a refusal in our own words, or the server is only full."""
    if status == http.HTTPStatus.OK or _FULL.search(answer):
        return True
    return errors.kind_in(answer) is not errors.INTERNAL


def _post(host: str, port: int, path: str, asked: object, timeout_s: float) -> tuple[int, str]:
    return _ask(host, port, "POST", f"/v2/models/{path}", json.dumps(asked), timeout_s)


def _ask(
    host: str, port: int, method: str, path: str, body: str | None, timeout_s: float
) -> tuple[int, str]:
    """Status and body of an answer; 0 and the reason if there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, f"no answer: {error}"
    finally:
        connection.close()
