"""NVIDIA's perf_analyzer: finds it with the libraries that it needs, and runs it for one load.

The binary comes with the tritonclient 2.50.0 wheel for Linux. Its CUDA runtime and libb64 are in
the server's wheel under other names, so a folder of links gives them the names it asks for.

    python -m benchmarks.load.perf_analyzer -m fish_tts -u 127.0.0.1:8001 -i grpc ...

runs it as it is with these libraries. `make setup` lets `.venv/bin/perf_analyzer` do the same.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_MOVED = ".elf"  # where the binary is, once a script has its name
# Debian 12, Ubuntu 22.04 and 24.04 know these packages by these names.
_PACKAGES = {
    "libb64.so.0d": "libb64-0d",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libz.so.1": "zlib1g",
    "libstdc++.so.6": "libstdc++6",
}


class PerfAnalyzerError(RuntimeError):
    """Why a load could not be made, in one line that says what to do."""


@dataclass(frozen=True)
class Load:
    """The requests of one load.

    Attributes:
        model: The front door.
        closed: Closed loop: `level` requests are always in flight. Otherwise open loop: `level`
            requests a second arrive as a Poisson process, however many are in flight.
        level: Concurrency, or requests per second.
        requests: Number of requests in all.
    """

    model: str
    closed: bool
    level: float
    requests: int

    @property
    def streaming(self) -> bool:
        return self.model.endswith("_stream")

    @property
    def name(self) -> str:
        """Name of the load's files."""
        kind = "closed" if self.closed else "open"
        return f"{self.model}-{kind}-{self.level:g}"


@dataclass(frozen=True)
class PerfAnalyzer:
    """The binary and the variables it runs with."""

    binary: Path
    environment: dict[str, str]

    def run(self, load: Load, grpc_url: str, rows: Path, out: Path, timeout_s: float) -> list[str]:
        """Make a load.

        Args:
            load: The requests.
            grpc_url: Address of the server.
            rows: The inputs, in perf_analyzer's JSON.
            out: perf_analyzer writes `out`.json, the profile export, and `out`.csv, its figures.
            timeout_s: Limit for the load, and for each request in the server.

        Returns:
            The command line.

        Raises:
            PerfAnalyzerError: If it fails, as it does when a request fails; with its last words.
        """
        Path(f"{out}.json").unlink(missing_ok=True)  # perf_analyzer refuses to write over it
        command = self._command(load, grpc_url, rows, out, timeout_s)
        environment = {**os.environ, **self.environment}
        try:
            done = subprocess.run(
                command, env=environment, timeout=timeout_s, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired as expired:
            said = (expired.stdout or b"").decode(errors="replace")
            raise PerfAnalyzerError(f"not done after {timeout_s:.0f} s: {_said(said)}") from None
        if done.returncode:
            raise PerfAnalyzerError(f"exit status {done.returncode}: {_said(done.stdout)}")
        return command

    def _command(
        self, load: Load, grpc_url: str, rows: Path, out: Path, timeout_s: float
    ) -> list[str]:
        if load.closed:
            level = ["--concurrency-range", f"{load.level:g}"]
        else:
            intervals = Path(f"{out}.intervals")
            intervals.write_text("".join(f"{us}\n" for us in poisson_intervals_us(load)))
            level = ["--request-intervals", str(intervals)]
        return [
            *(str(self.binary), "-m", load.model, "-i", "grpc", "-u", grpc_url, "--async"),
            *(["--streaming"] if load.streaming else []),
            *level,
            *("--request-count", str(load.requests), "--input-data", str(rows)),
            *("--request-parameter", f"timeout:{round(timeout_s * 1e6)}:int"),
            *("--profile-export-file", f"{out}.json", "-f", f"{out}.csv", "--verbose-csv"),
        ]


def poisson_intervals_us(load: Load) -> list[int]:
    """Microseconds before each request of an open loop, the same in every run.

    They are exponential, scaled to the exact rate. perf_analyzer's own `--request-distribution
    poisson` has one fixed sequence, whose first dozen requests come at less than half the rate.
    """
    draws = np.random.default_rng(0).exponential(size=load.requests)
    total = max(draws[1:].sum(), 1e-9)  # the first interval does not count
    return [round(us) for us in draws / total * (load.requests - 1) / load.level * 1e6]


def find(links: Path) -> PerfAnalyzer:
    """Find the binary and its libraries.

    Args:
        links: Folder for links to libraries that the system has under other names.

    Raises:
        PerfAnalyzerError: Names what is missing and the command that installs it.
    """
    own = Path(sys.prefix, "bin", "perf_analyzer")
    binary = own.with_suffix(_MOVED)
    found = next((p for p in (binary, own) if p.is_file()), shutil.which("perf_analyzer"))
    if not found:
        raise PerfAnalyzerError(
            f"no perf_analyzer in {own.parent} nor on PATH. It comes with tritonclient's wheel for "
            "Linux on x86-64. Install it with: make setup"
        )
    binary = Path(found)
    _link(missing_libraries(binary, {}), links)
    environment = {
        "LD_LIBRARY_PATH": os.pathsep.join(
            [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        )
    }
    if missing := missing_libraries(binary, environment):
        raise PerfAnalyzerError(f"{binary} cannot run: {how_to_install(missing)}")
    return PerfAnalyzer(binary, environment)


def missing_libraries(binary: Path, environment: dict[str, str]) -> list[str]:
    """Names of the libraries that the loader does not find, or finds in too old a version."""
    done = subprocess.run(
        ["ldd", str(binary)], env={**os.environ, **environment}, capture_output=True, text=True
    )
    absent = re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)
    return absent + re.findall(r"version `(GLIBC\S*_[\d.]+)' not found", done.stdout + done.stderr)


def how_to_install(missing: list[str]) -> str:
    """What is missing, and the commands that install it."""
    packages = sorted({_PACKAGES[name] for name in missing if name in _PACKAGES})
    advice = [f"As root: apt-get install -y {' '.join(packages)}"] if packages else []
    if any(name.startswith("libcudart") for name in missing):
        advice.append("The CUDA runtime comes with the server's wheel: make setup")
    if any(name.startswith("GLIBC") for name in missing):
        advice.append("This system is too old: Debian 12, Ubuntu 22.04 or newer will do")
    return ". ".join([f"it lacks {', '.join(missing)}", *advice])


def _link(names: list[str], links: Path) -> None:
    """`libcudart.so.12` -> the wheel's `libcudart-09529672.so.12.6.77`, and so on."""
    links.mkdir(parents=True, exist_ok=True)
    wheel = Path(sysconfig.get_path("purelib"), "nvidia_pytriton.libs")
    for name in names:
        stem, _, version = name.partition(".so.")
        link, files = links / name, sorted(wheel.glob(f"{stem}-*.so.{version}*"))
        if files:
            link.unlink(missing_ok=True)
            link.symlink_to(files[0])


def _said(output: str) -> str:
    """The end of its output; of a usage message, which begins with the reason, the beginning."""
    words = output.partition("Usage:")[0].split()
    return " ".join(words[-60:]) or "it said nothing"


def install() -> None:
    """Put a script in place of the binary, which then finds its libraries whoever starts it."""
    links, own = Path(sys.prefix, "lib", "perf_analyzer"), Path(sys.prefix, "bin", "perf_analyzer")
    if own.is_file() and own.read_bytes()[:4] == b"\x7fELF":  # as the wheel brings it
        own.replace(own.with_suffix(_MOVED))
    binary = find(links).binary
    libraries = f"{shlex.quote(str(links))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
    own.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {shlex.quote(str(binary))} "$@"\n')
    own.chmod(0o755)


def main() -> None:
    """Become perf_analyzer, with this program's arguments."""
    try:
        found = find(Path(sys.prefix, "lib", "perf_analyzer"))
    except PerfAnalyzerError as error:
        sys.exit(f"perf_analyzer: {error}")
    os.execve(found.binary, [str(found.binary), *sys.argv[1:]], os.environ | found.environment)


if __name__ == "__main__":
    main()
