"""docs/deploy.md: its manifests, names, numbers and messages are those of the product."""

import os
import re
import shlex
import signal
import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from gateway.__main__ import app as gateway_app
from support import manifest_faults as faults
from support.manifest_checks import faults_of
from support.manifests import KUBERNETES, name_of, of_component, rendered

PROJECT = KUBERNETES.parents[1]
PAGE = (PROJECT / "docs" / "deploy.md").read_text("utf-8")
COMMANDS = re.findall(r"kubectl (?!drain|label)[^`\n]+", PAGE)
APPS = {"launch.serve": faults.serve_app, "gateway": gateway_app}
REFUSED = re.findall(r"^\$ (.*python -m .+)\n((?:serve|gateway): .+)$", PAGE, re.MULTILINE)


def test_a_folder_of_ones_own_is_right_as_a_whole(own_overlay) -> None:
    (written,) = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    objects = rendered(own_overlay("mine", written))
    assert faults_of(objects) == []
    assert of_component(objects, "server").environment["VOICEREEL_BATCH_SIZE"] == "32"


def test_commands_name_what_there_is() -> None:
    everything = [t for f in ("storage", "export", "overlays/gpu") for t in rendered(f)]
    names = {name_of(thing).lower() for thing in everything} | {"pod/pod"}
    assert len(COMMANDS) > 20
    for command in COMMANDS:
        for kind, name in re.findall(r"\b(deployment|pod|job|service)/([\w-]+)", command):
            assert f"{kind}/{name}".lower() in names, command
        for folder in re.findall(r"-k (\S+)", command):
            assert (PROJECT / folder).is_dir() or folder.endswith("overlays/mine"), command
        assert "-n voicereel " in command or "apply -" in command, command


def test_secrets_that_it_makes_are_those_that_are_used(whole) -> None:
    made = set(re.findall(r"create secret (?:generic|tls) ([\w-]+)", PAGE))
    made |= {"voicereel-metrics-key"} & set(re.findall(r"`([\w-]+)`", PAGE))
    text = str([whole("keda"), whole("hpa")])
    used = set(re.findall(r"'(voicereel-(?:tls|[\w-]*keys?))'", text))
    assert made == used


def test_the_seconds_of_a_stop_are_those_of_the_manifests() -> None:
    rows = {
        name.strip(" `"): tuple(map(int, numbers))
        for name, *numbers in re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|", PAGE, re.MULTILINE)
    }
    both = [of_component(rendered("overlays/cpu"), each) for each in ("server", "gateway")]
    assert rows["preStop"] == tuple(each.pre_stop_s for each in both)
    grace = tuple(each.spec["terminationGracePeriodSeconds"] for each in both)
    assert rows["terminationGracePeriodSeconds"] == grace
    settings = faults.gateway_settings(both[1])
    drained = faults.server_settings(both[0].environment).drain_s, settings.drain_s
    assert rows["drain"] == drained
    assert rows["end"][0] == faults.EXIT_TIMEOUT_S + 5
    budget = both[0].container["startupProbe"]
    assert f"for {budget['periodSeconds'] * budget['failureThreshold']} s" in PAGE


@pytest.mark.parametrize(("command", "said"), REFUSED)
def test_what_is_refused_is_refused_in_these_words(
    monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    for name in [name for name in os.environ if name.startswith("VOICEREEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(PROJECT)
    settings, _, words = command.partition("python -m ")
    for setting in shlex.split(settings):
        monkeypatch.setenv(*setting.split("=", 1))
    module, *arguments = shlex.split(words)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = CliRunner().invoke(APPS[module], arguments)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert result.exit_code in (1, 2)
    assert result.output.splitlines()[-1] == said


def test_every_refusal_of_the_page_is_tried() -> None:
    assert len(REFUSED) == 4


def test_the_alerts_become_a_resource() -> None:
    alerts = PROJECT / "deploy" / "prometheus" / "alerts.yml"
    if not alerts.exists():
        pytest.skip("deploy/prometheus has no alerts.yml")
    (head,) = re.findall(r"^(\{ printf .+\n.+; \}) \| kubectl apply -f -$", PAGE, re.MULTILINE)
    made = subprocess.run(["bash", "-c", head], cwd=PROJECT, capture_output=True, check=True)
    rule = yaml.safe_load(made.stdout)
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load(alerts.read_text())
