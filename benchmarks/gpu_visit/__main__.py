"""Packs for a visit, or makes it.

    python -m benchmarks.gpu_visit --pack DIR                # make the pack
    python3 -m benchmarks.gpu_visit --out DIR --pack DIR     # the visit, from a bare checkout

Without --pack a visit uses the packages of the Python that runs it. The last line on stdout is one
JSON object. Nothing but Python's own library is needed to start.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_visit import report, smi, steps, unpack
from benchmarks.gpu_visit.results import FILE_NAME
from benchmarks.gpu_visit.visit import SHAPES, Visit
from launch.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status says whether the visit could be made."""
    asked = _parser().parse_args(arguments)
    if asked.out is None:
        from benchmarks.gpu_visit import pack  # needs pip, which a bare machine may lack

        return pack.make(asked.pack, asked.python)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # steps are ended, the report is written
    try:
        return make_visit(asked)
    except unpack.PackError as error:
        print(f"gpu_visit: {error}", file=sys.stderr)
        return 1


def make_visit(asked: argparse.Namespace) -> int:
    """Unpack, take the steps, report."""
    deadline = time.monotonic() + 60 * asked.minutes
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / FILE_NAME).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-visit-") as work:
        python, commit = sys.executable, ""
        if asked.pack is not None:
            begin = time.monotonic()
            python, commit = unpack.unpack(asked.pack, Path(work, "python"))
            print(f"unpacked in {time.monotonic() - begin:.1f} s", flush=True)
        out = asked.out.resolve()
        visit = Visit(out, Path(work), asked.device, asked.tiny, commit, asked.preset)
        runner = steps.Runner(visit, python, steps.environment(visit), deadline)
        chosen = [s for s in steps.STEPS if not asked.only or s.name in asked.only.split(",")]
        before = smi.query("memory.used")
        try:
            steps.run_all(runner, chosen, after=lambda: report.write(visit))
        finally:
            RunFolder.create().remove()  # and what servers that were killed left in shared memory
            if before is not None:
                after = smi.query("memory.used")
                print(f"GPU memory in use: {before} MiB before, {after} MiB after", flush=True)
            line = report.write(visit)
            print(report.show(out), flush=True)
            print(line, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "gpu_visit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder for the results; without it the pack is made")
    add("--pack", type=Path, help="folder of the pack")
    add("--minutes", type=float, default=9.0, help="for the whole visit [9]")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="[cuda]")
    add("--tiny", action="store_true", help="the tiny checkpoint, few and short runs")
    add("--preset", choices=SHAPES, default=SHAPES[0], help="shape of the random weights [s1mini]")
    add("--only", default="", help="steps, by comma: " + ",".join(s.name for s in steps.STEPS))
    add("--python", default="3.12", help="of the machine to visit, for the pack [3.12]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
