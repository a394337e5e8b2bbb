"""`python -m benchmarks.codec`: the codec against upstream, see `benchmarks.speed.codec`."""

import typer

from benchmarks.speed.codec import main

if __name__ == "__main__":
    typer.run(main)
