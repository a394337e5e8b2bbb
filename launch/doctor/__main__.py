"""`python -m launch.doctor`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from launch.doctor import machine
from launch.doctor.repository import TEMPLATE, artefacts


def main(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = TEMPLATE,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
) -> None:
    """Print a JSON list of findings."""
    wanted = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
    found = [
        machine.interpreter(),
        *machine.packages(),
        machine.server(),
        machine.gpu(),
        machine.compiler(),
        machine.shared_memory(),
        machine.ports(wanted),
        *artefacts(repository),
    ]
    print(json.dumps([asdict(finding) for finding in found]))


if __name__ == "__main__":
    typer.run(main)
