"""Finds the gRPC port of the tritonserver that runs this model, and ends with that server.

A Python model is a child process of its tritonserver, whose command line names the port.
"""

import argparse
import functools
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble.contract.settings import server_settings

VARIABLE = "VOICEREEL_GRPC_URL"
_ENDING_S = 3  # seconds that a model has to end by itself
# For a connection to this server: no proxy is on this machine's way to itself, and a response may
# be of any size, as in tritonclient's own defaults, which these replace.
CHANNEL_ARGS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
_FIX = f"Set {VARIABLE}=HOST:PORT to where this server's gRPC service can be reached."


def end_with_it() -> None:
    """End this process when its server has ended, whatever this process is waiting for then.

    A model that was about to send a response when the server was killed would wait for ever. One
    that logs then does so with Python's lock held, and no thread of its own could end it: the
    kernel does.
    """
    try:
        server = os.pidfd_open(_server())
    except (OSError, RuntimeError):
        return  # outside a server, as in tests

    def wait() -> None:
        select.select([server], [], [])
        signal.alarm(_ENDING_S)  # which nobody here handles

    threading.Thread(target=wait, daemon=True).start()


def grpc_url(environment: Mapping[str, str] = os.environ) -> str:
    """HOST:PORT, from the variable VOICEREEL_GRPC_URL or else from the server's command line.

    Raises:
        RuntimeError: If there is no such port, or it speaks TLS; says what to set.
    """
    return server_settings(environment).grpc_url or url_of(_server_arguments())


def url_of(arguments: Sequence[str]) -> str:
    """HOST:PORT, from the arguments of a tritonserver and the defaults of those left out.

    Raises:
        RuntimeError: If there is no such port, or it speaks TLS; says what to set.
    """
    parser = _parser()
    parser.add_argument("--grpc-port", default="8001")
    parser.add_argument("--grpc-address", default="0.0.0.0")
    parser.add_argument("--allow-grpc", default="true")
    parser.add_argument("--grpc-use-ssl", nargs="?", const="true", default="false")
    found, _ = parser.parse_known_args(list(arguments))
    if found.allow_grpc.lower() in ("false", "0"):
        raise RuntimeError(f"the server has no gRPC service (--allow-grpc=false). {_FIX}")
    if found.grpc_use_ssl.lower() not in ("false", "0"):
        raise RuntimeError(f"the server's gRPC service wants TLS. {_FIX}")
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}
    address = everywhere.get(found.grpc_address, found.grpc_address)
    return f"{address}:{found.grpc_port}"


def forwarded_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """Patterns of the headers that a tritonserver with these arguments makes parameters of."""
    parser = _parser()
    parser.add_argument("--http-header-forward-pattern")
    parser.add_argument("--grpc-header-forward-pattern")
    found, _ = parser.parse_known_args(list(arguments))
    return tuple(pattern for pattern in vars(found).values() if pattern)


@functools.cache
def forwarded() -> tuple[str, ...]:
    """The patterns of this model's own server; none if it is not found."""
    try:
        return forwarded_of(_server_arguments())
    except (OSError, RuntimeError):
        return ()


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)


def _server_arguments() -> list[str]:
    """Arguments of this model's server."""
    return [argument for argument in _command_of(_server())[1:] if argument]


def _server() -> int:
    """Process id of the nearest tritonserver among this process's ancestors.

    Raises:
        RuntimeError: If there is none; says what to set.
    """
    pid = os.getppid()
    while pid > 1:
        if Path(_command_of(pid)[0]).name == "tritonserver":
            return pid
        status = Path(f"/proc/{pid}/stat").read_text("utf-8")
        pid = int(status.rpartition(")")[2].split()[1])
    raise RuntimeError(f"the tritonserver that runs this model was not found. {_FIX}")


def _command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
