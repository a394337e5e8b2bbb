"""What dashboard and rules ask of Prometheus."""

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.prepared import ROOT

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "voicereel.json"
_SELECTOR = re.compile(r"\b((?:nv|fish|voicereel)[_:]\w+(?::\w+)?|up)\b(?:\{([^}]*)\})?")


@dataclass(frozen=True)
class Query:
    """One target of a panel.

    Attributes:
        row, panel: Their titles.
        unit: Grafana's name of the unit.
        expr: PromQL, with Grafana's $__rate_interval.
        legend: A template with labels.
    """

    row: str
    panel: str
    unit: str
    expr: str
    legend: str

    @property
    def needs_gpu(self) -> bool:
        """Whether it may be empty: on a machine without a GPU."""
        return self.row.startswith("GPU")

    def name(self, labels: dict[str, str]) -> str:
        """The legend of one series."""
        return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), self.legend)


def panels() -> list[Query]:
    """Every query of the dashboard."""
    found, row = [], ""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        for target in panel.get("targets", []):
            found.append(Query(row, panel["title"], unit, target["expr"], target["legendFormat"]))
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule, recordings first."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def selectors(expr: str) -> set[str]:
    """The series that a query reads: names, and labels whatever their value.

    An alert is empty while all is well, but what it reads must be there.
    """
    found = set()
    for name, matchers in _SELECTOR.findall(expr):
        labels = [f'{label}!=""' for label in re.findall(r"(\w+)(?:=|!)", matchers)]
        found.add(f"{name}{{{','.join(labels)}}}" if labels else name)
    return found
