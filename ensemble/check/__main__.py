"""`python -m ensemble.check`: the contract == every config.pbtxt == the exported artefacts."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ensemble.check.config import CONTRACT
from ensemble.check.profiles import write_profiles as write
from ensemble.check.repository import config_paths, differences, exported
from ensemble.contract.tensors import MODELS


def main(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = Path("model_repository"),
    write_profiles: Annotated[
        bool, typer.Option("--write-profiles", help="First write every configs/PROFILE.pbtxt.")
    ] = False,
) -> None:
    """Check that contract, configs and artefacts agree; exit status 1 if they do not."""
    if not repository.is_dir():
        print(f"check: model repository {repository} does not exist", file=sys.stderr)
        raise typer.Exit(1)
    if write_profiles:
        write(repository)
    found = differences(repository)
    for difference in found:
        print(difference)
    if found:
        print(f"check: {len(found)} differences", file=sys.stderr)
        raise typer.Exit(1)
    configs = sum(len(config_paths(repository / name)) for name in MODELS)
    artefacts = ", ".join(str(p.relative_to(repository)) for p in exported(repository))
    print(
        f"check: {len(MODELS)} models, {configs} configs, artefacts "
        f"({artefacts or 'none exported'}) and {CONTRACT} agree"
    )


if __name__ == "__main__":
    typer.run(main)
