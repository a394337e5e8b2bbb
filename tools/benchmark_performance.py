"""Times a script of two speakers through both engines: see `benchmarks.speed.performance`.

python tools/benchmark_performance.py --segments 15 --runs 3 --engine both --output results.json
"""

import sys
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed.performance import main

if __name__ == "__main__":
    typer.run(main)
