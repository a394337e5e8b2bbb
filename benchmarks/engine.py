"""`python -m benchmarks.engine`: the LLaMA stage in process, see `benchmarks.speed.engine`."""

import typer

from benchmarks.speed.engine import main

if __name__ == "__main__":
    typer.run(main)
