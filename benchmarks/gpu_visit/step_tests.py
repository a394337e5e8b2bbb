"""Tests for a GPU: its kernels against torch, greedy speech against upstream."""

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import ROOT, Skipped, Visit

TESTS = (
    "tests/lm/test_gpu.py",
    "tests/kernels/test_gpu_step.py",
    "tests/kernels/test_gpu_codec.py",
)
_KINDS = ("failure", "error", "skipped")  # elements of a case that did not pass


def run(visit: Visit, results: Results) -> None:
    """Run the tests; one that fails is a result, not a failure of the step."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("needs pytest, which neither the pack nor this machine has")
    environment = dict(os.environ)
    if visit.device == "cuda":  # else the whole file is skipped and looks at no checkpoint
        from benchmarks.gpu_visit import artefacts  # slow to import

        made = artefacts.made(visit, "tiny", endless=False)
        environment["VOICEREEL_TINY"] = str(made.folder)
    report = visit.work / "tests.xml"
    # The machine's own pytest plugins are none of our business.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", *TESTS, "-p", "no:cacheprovider"]
    subprocess.run([*command, f"--junit-xml={report}"], cwd=ROOT, env=environment, check=False)
    if not report.is_file():
        raise RuntimeError("pytest wrote no report; log.txt has what it said")
    for name, value in summary(report).items():
        results.put(name, value)


def summary(report: Path) -> dict[str, Any]:
    """What a JUnit file says.

    Returns:
        `passed`: how many cases of each test function passed; `failed` and `skipped`: the others,
        each with its reason.
    """
    passed: Counter[str] = Counter()
    others: dict[str, dict[str, str]] = {"failed": {}, "skipped": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        name, bad = case.get("name", ""), [e for e in case if e.tag in _KINDS]
        for element in bad:
            state = "skipped" if element.tag == "skipped" else "failed"
            reason = element.get("message") or ""
            if reason == "collection skipped":  # the whole file; why stands in the text
                reason = element.text or reason
            lines = reason.strip().splitlines() or ["no reason given"]
            others[state][name or case.get("classname", "")] = lines[0][:300]
        if not bad:
            passed[name.partition("[")[0]] += 1
    return {"passed": dict(passed), **others}
