"""Rules of Prometheus: checked by its own tool, and by what they must have."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.observed import queries as observed

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "deploy" / "prometheus"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def rules() -> list[dict]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict]:
    return [rule for rule in rules() if "alert" in rule]


@pytest.mark.slow
@needs_promtool
@pytest.mark.parametrize(
    "command",
    ["check config prometheus.yml", "test rules alerts_test.yml"],
)
def test_promtool_is_content(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()], cwd=FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_planted_and_says_what_to_do() -> None:
    planted = {
        test["name"] for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    }
    assert len(alerts()) > 10
    assert {alert["alert"] for alert in alerts()} - planted == set()
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}, alert


def test_every_runbook_is_there() -> None:
    page = PROJECT / "docs" / "deploy.md"
    links = {alert["annotations"]["runbook_url"] for alert in alerts()}
    assert {link.partition("#")[0] for link in links} == {"docs/deploy.md"}
    if not page.exists():
        pytest.skip("docs/deploy.md is not there")
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    known = {heading.lower().replace(" ", "-") for heading in headings}
    assert {link for link in links if link.partition("#")[2] not in known} == set()


def test_every_metric_that_is_asked_for_is_on_the_page_of_metrics() -> None:
    page = (PROJECT / "docs" / "metrics.md").read_text("utf-8")
    asked = {
        name for query in queries() for name in re.findall(r"\b(?:nv|fish|voicereel)_\w+", query)
    }
    assert len(asked) > 30
    forms = {name: {name, re.sub(r"_(bucket|count|sum)$", "", name)} for name in asked}
    assert {
        n for n, names in forms.items() if not any(f"| `{m}` |" in page for m in names)
    } == set()


def queries() -> list[str]:
    """Of the rules, and of the dashboard."""
    asked = [rule["expr"] for rule in rules()] + [query.expr for query in observed.panels()]
    return [re.sub(r'"[^"]*"', "", query) for query in asked]  # without labels' values


def test_the_dashboard_can_be_provisioned() -> None:
    """Grafana finds its data source by this uid, and panels do not lie on each other."""
    folder = PROJECT / "deploy" / "grafana"
    sources = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())
    [uid] = [source["uid"] for source in sources["datasources"]]
    panels = json.loads((folder / "dashboards/voicereel.json").read_text("utf-8"))["panels"]
    targets = [target for panel in panels for target in panel.get("targets", [])]
    assert {target["datasource"]["uid"] for target in targets} == {uid}
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24
