"""Finds the gRPC port of the tritonserver that runs this model.

A Python model is a child process of its tritonserver, whose command line names the port.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble.contract.settings import server_settings

VARIABLE = "VOICEREEL_GRPC_URL"
_FIX = f"Set {VARIABLE}=HOST:PORT to where this server's gRPC service can be reached."


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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--grpc-port", default="8001")
    parser.add_argument("--grpc-address", default="0.0.0.0")
    parser.add_argument("--allow-grpc", default="true")
    parser.add_argument("--grpc-use-ssl", nargs="?", const="true", default="false")
    found, _ = parser.parse_known_args(list(arguments))
    if found.allow_grpc.lower() in ("false", "0"):
        raise RuntimeError(f"the server has no gRPC service (--allow-grpc=false). {_FIX}")
    if found.grpc_use_ssl.lower() not in ("false", "0"):
        raise RuntimeError(f"the server's gRPC service wants TLS. {_FIX}")
    address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(found.grpc_address, found.grpc_address)
    return f"{address}:{found.grpc_port}"


def _server_arguments() -> list[str]:
    """Arguments of the nearest tritonserver among this process's ancestors."""
    pid = os.getppid()
    while pid > 1:
        arguments = Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
        if Path(arguments[0]).name == "tritonserver":
            return [argument for argument in arguments[1:] if argument]
        status = Path(f"/proc/{pid}/stat").read_text("utf-8")
        pid = int(status.rpartition(")")[2].split()[1])
    raise RuntimeError(f"the tritonserver that runs this model was not found. {_FIX}")
