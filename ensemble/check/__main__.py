"""`python -m ensemble.check`: the contract == every config.pbtxt == the exported artefacts."""

import typer

from ensemble.check.repository import main

typer.run(main)
