"""A checkpoint of the full shape, random, and what serving it on a GPU needs."""

import time

from benchmarks.gpu_visit import artefacts
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit


def run(visit: Visit, results: Results) -> None:
    """Make both; later steps find them."""
    begin = time.perf_counter()
    made = artefacts.made(visit, visit.preset, endless=True)
    files = [path for path in made.repository.rglob("*") if path.is_file()]
    results.put("preset", visit.preset)
    results.put("weights_from", made.weights_from)
    results.put("seconds", time.perf_counter() - begin)
    results.put("repository_mb", sum(path.stat().st_size for path in files) / 1e6)
