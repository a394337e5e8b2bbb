"""`python -m benchmarks.bench`: the workload through a server, see `benchmarks.speed.bench`."""

import typer

from benchmarks.speed.bench import main

if __name__ == "__main__":
    typer.run(main)
