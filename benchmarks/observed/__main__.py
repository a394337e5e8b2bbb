"""Evaluates every query of dashboard and alerts on a real load, and draws the panels.

    python -m benchmarks.observed [--repository DIR] [--seconds 60] [--picture FILE]

A real server, a real gateway and a real Prometheus. It fails if a panel shows nothing, if a rule
cannot be evaluated, or if an alert asks for a metric or a label that is not there. The last line on
stdout is one JSON object; all else goes to stderr.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.load.gateway import gateway
from benchmarks.observed import load, plot
from benchmarks.observed.prometheus import MISSING, SCRAPE_S, Prometheus, running
from benchmarks.observed.queries import Query, panels, rules, selectors
from benchmarks.prepared import ROOT, prepared, served
from benchmarks.report import console, finish

OUT = ROOT / "out" / "observed"
_RATE = f"{15 * SCRAPE_S}s"  # Grafana's $__rate_interval: some scrapes
# No GPU need be here, and the server is asked without the proxy in front.
_ABSENT = ("nv_gpu_", "voicereel_proxy_", "voicereel_supervisor_")
_TITLE = "{} callers at a time, {:.0f} s each; panels of the dashboard, answered by Prometheus"


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: the demo voice.")] = None,
    seconds: Annotated[float, typer.Option(help="Of load.")] = 60,
    picture: Annotated[Path, typer.Option(help="PNG file for the panels.")] = OUT / "observed.png",
) -> None:
    """Load, scrape, ask, draw."""
    if not shutil.which("prometheus"):
        console.print(f"observed: {MISSING}")
        raise typer.Exit(1)
    OUT.mkdir(parents=True, exist_ok=True)
    with (
        served(repository or prepared("demo", "demo")[1]) as (server, client),
        gateway(server.grpc_url) as address,
        running(
            {"voicereel-server": f"127.0.0.1:{server.ports['metrics']}",
             "voicereel-gateway": address}, OUT,
        ) as prometheus,
    ):  # fmt: skip
        begin = time.time()
        told = load.make(client, address, seconds)
        time.sleep(3 * SCRAPE_S)  # the last scrapes, and the rules on them
        answers = {q: prometheus.over(_of(q), begin, time.time()) for q in panels()}
        problems = empty(answers) + unfounded(prometheus)
    steps = ", ".join(map(str, load.STAIRS))
    plot.panels(answers, begin, _TITLE.format(steps, seconds / len(load.STAIRS)), picture)
    for problem in problems:
        print(f"observed: {problem}", file=sys.stderr)
    finish({"answers": told, "queries": len(answers), "rules": len(rules()),
            "problems": problems, "picture": str(picture)})  # fmt: skip
    if problems or told.get("200", 0) == 0:
        raise typer.Exit(1)


def _of(query: Query) -> str:
    return query.expr.replace("$__rate_interval", _RATE)


def empty(answers: plot.Answers) -> list[str]:
    """Panels that show nothing, though they should."""
    return [
        f"the panel {query.panel!r} shows nothing for {query.expr}"
        for query, series in answers.items()
        if not query.needs_gpu and not any(_is_number(v) for s in series for _, v in s["values"])
    ]


def _is_number(value: Any) -> bool:
    return float(value) == float(value)  # not NaN, which is what 0 / 0 gives


def unfounded(prometheus: Prometheus) -> list[str]:
    """Rules that Prometheus cannot evaluate, and what they ask for in vain."""
    wrong = [
        f"rule {r['name']}: {r['lastError']}" for r in prometheus.rules() if r.get("lastError")
    ]
    asked = {
        (rule.get("alert") or rule["record"], selector)
        for rule in rules()
        for selector in selectors(rule["expr"])
        if not selector.startswith(_ABSENT)
    }
    return wrong + [
        f"rule {name} reads {selector}, which is not there"
        for name, selector in sorted(asked)
        if not prometheus.query(f"count(last_over_time({selector}[10m]))")
    ]


if __name__ == "__main__":
    typer.run(main)
