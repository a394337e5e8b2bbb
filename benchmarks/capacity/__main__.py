"""`python -m benchmarks.capacity`: the plots and figures of docs/capacity.md.

A few minutes of one core; every figure is the same in every run. The last line on stdout is one
JSON object; all else goes to stderr.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.capacity import plots
from benchmarks.capacity.replica import FRAME_S
from benchmarks.capacity.router import POLICIES
from benchmarks.capacity.simulation import (
    MEAN_FRAMES,
    Scenario,
    poisson,
    rate_for,
    simulate,
    speech,
)
from benchmarks.prepared import ROOT
from benchmarks.report import console
from voicereel.capacity import Machine, machines

SHARES = (0.2, 0.3, 0.4, 0.5)  # of the frames a second that full slots make
SHARE = 0.3  # what is left to do is looked at with so much
_GATEWAYS, _SETTLED_S, _SECONDS = 8, 6, 20  # the first seconds fill the replicas
DIES_S, BACK_S = 10, 10
_SIZED_S = 10  # seconds of each size
SIZES = (10, 100, 600)  # replicas; 600 of an H200 have 10,000 listeners


def main(
    machine: Annotated[str, typer.Option(help="Of client/voicereel/capacity.json.")] = "h200-half",
    replicas: Annotated[int, typer.Option(help="For the comparison of policies.")] = 10,
    images: Annotated[Path, typer.Option(help="Folder.")] = ROOT / "docs" / "images",
) -> None:
    """Simulate, draw, tell."""
    served = machines()[machine]
    by_policy = policies(served, replicas)
    plots.against_load(by_policy, served, replicas, images / "capacity-policies.png")
    deaths = dying(served, replicas)
    plots.deaths(deaths, DIES_S, images / "capacity-death.png")
    sizes = growing(served)
    print(json.dumps({"policies": by_policy, "deaths": told(deaths), "sizes": sizes}))


def policies(served: Machine, replicas: int) -> dict[str, list[dict[str, float]]]:
    """First audio against load, by policy."""
    found: dict[str, list[dict[str, float]]] = {}
    for share in SHARES:
        arrivals = poisson(rate_for(served, replicas, share, MEAN_FRAMES), _SECONDS, speech, 1)
        least = "least in flight, first windows first"  # which the product's decoder does not do
        for name in (*POLICIES, least):
            policy, first = name.partition(", first")[::2]
            scenario = Scenario(
                served, replicas, policy, gateways=_GATEWAYS, firsts_first=bool(first)
            )
            row = _row(simulate(scenario, arrivals), share)
            found.setdefault(name, []).append(row)
            console.print(name, row)
    return found


def _row(outcome: Any, share: float) -> dict[str, float]:
    settled = [n for at, n in outcome.in_flight if _SETTLED_S <= at < _SECONDS]
    first = {f"p{int(100 * q)}": outcome.first_audio(q, _SETTLED_S, _SECONDS) for q in (0.5, 0.95)}
    return {"share": share, "streams": sum(settled) / len(settled), **first}


def dying(served: Machine, replicas: int) -> dict[str, Any]:
    """One replica of ten ends at once and comes back, and what routers make of it."""
    count = max(1, replicas // 10)
    arrivals = poisson(rate_for(served, replicas, SHARE, MEAN_FRAMES), _SECONDS + 10, speech, 2)
    deaths = tuple((float(DIES_S), index, float(BACK_S)) for index in range(count))
    cases: dict[str, dict[str, Any]] = {
        "none dies": {"deaths": ()},
        "ports refuse at once, requests are repeated": {"repeats": True, "notices_s": 0.0},
        "ports refuse at once, nothing is repeated": {"repeats": False, "notices_s": 0.0},
        "they hang, noticed after 5 s": {"repeats": True, "notices_s": 5.0},
        "they hang, noticed after 5 s; slots-aware": {"repeats": True, "notices_s": 5.0,
                                                      "policy": "slots-aware"},
    }  # fmt: skip
    found = {}
    for name, how in cases.items():
        how = {"gateways": _GATEWAYS, "deaths": deaths, **how}
        found[name] = simulate(Scenario(served, replicas, **how), arrivals)
    return found


def told(deaths: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of the replicas' deaths."""
    return {
        name: {"failed": outcome.failed, "requests": len(outcome.requests),
               "p95_before": outcome.first_audio(0.95, 4, DIES_S),
               "p95_while": outcome.first_audio(0.95, DIES_S - 1, DIES_S + BACK_S),
               "p95_after": outcome.first_audio(0.95, DIES_S + BACK_S, _SECONDS + 10)}
        for name, outcome in deaths.items()
    }  # fmt: skip


def growing(served: Machine) -> list[dict[str, float]]:
    """The same share of the load with more replicas."""
    rows = []
    for replicas in SIZES:
        arrivals = poisson(rate_for(served, replicas, SHARE, MEAN_FRAMES), _SIZED_S, speech, 3)
        outcome = simulate(Scenario(served, replicas, gateways=_GATEWAYS), arrivals)
        listeners = (
            len(arrivals) / _SIZED_S * MEAN_FRAMES * FRAME_S
        )  # each hears his stream in real time
        first = {f"p{int(100 * q)}": outcome.first_audio(q, 4, _SIZED_S) for q in (0.5, 0.95, 0.99)}
        rows.append({"replicas": replicas, "listeners": listeners, **first})
        console.print(rows[-1])
    return rows


if __name__ == "__main__":
    typer.run(main)
