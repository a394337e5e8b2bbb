"""Tries the doors of a new server that reach their own server for every request."""

import http.client
import json
from pathlib import Path

from launch.tritonserver import LaunchError

# Requests without words, which are refused, but only behind the door's way to its own server.
_WORDLESS: dict[str, dict[str, object]] = {
    "fish_tts": {"text": ""},
    "fish_clone": {"text": "", "reference_text": "", "reference_audio": [0.0]},
}
_TIMEOUT_S = 60  # the first request of a process may be slow


def try_doors(repository: Path, host: str, http_port: int) -> None:
    """Call each of these doors once.

    Raises:
        LaunchError: If a door does not reach its own server.
    """
    for model, asked in _WORDLESS.items():
        if not (repository / model / "config.pbtxt").is_file():
            continue
        connection = http.client.HTTPConnection(host, http_port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", f"/v2/models/{model}/generate", json.dumps(asked))
            answer = connection.getresponse().read().decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException) as error:
            answer = f"no answer: {error}"
        finally:
            connection.close()
        if ": invalid request: " not in answer:
            raise LaunchError(
                f"{model} does not reach its own server: {answer.strip()}. "
                "Set VOICEREEL_GRPC_URL=HOST:PORT to where this server's gRPC service is"
            )
