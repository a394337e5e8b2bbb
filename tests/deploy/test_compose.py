"""What compose.yaml starts: commands, variables, waits and addresses that the product has."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import manifest_faults as faults
from support.manifests import Pods

DEPLOY = faults.PROJECT / "deploy"
SERVERS = ("server-cpu", "server-gpu")


def read(path: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


SERVICES: dict[str, Any] = read("compose.yaml")["services"]


def interpolated(text: object) -> str:
    """A value as compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", str(text))


def environment(name: str) -> dict[str, str]:
    given = SERVICES[name].get("environment", {})
    return {variable: interpolated(value) for variable, value in given.items()}


def arguments(name: str) -> list[str]:
    """What a service runs: its image's command, unless it says another."""
    dockerfile = (DEPLOY.parent / SERVICES[name]["build"]["dockerfile"]).read_text("utf-8")
    image = {
        word: yaml.safe_load(re.findall(rf"^{word} (\[.*\])$", dockerfile, re.MULTILINE)[-1])
        for word in ("ENTRYPOINT", "CMD") if f"\n{word} [" in dockerfile
    }  # fmt: skip
    entry = SERVICES[name].get("entrypoint", image["ENTRYPOINT"])
    return [*entry, *SERVICES[name].get("command", image.get("CMD", []))]


def gateway() -> faults.Settings:
    env = [{"name": n, "value": v} for n, v in environment("gateway").items()]
    return faults.gateway_settings(Pods("compose", {"containers": [{"env": env}]}, {}))


@pytest.mark.parametrize("name", SERVERS)
def test_the_servers_command_and_variables_are_the_products(name: str) -> None:
    python, flag, module, *options = arguments(name)
    assert (python, flag, module) == ("python3", "-m", "launch.serve")
    parsed = faults.parsed(faults.SERVE, options)
    assert parsed["address"] == "0.0.0.0" and parsed["profile"] == name.removeprefix("server-")
    assert str(parsed["repository"]).startswith("/models/")
    assert faults.server_settings(environment(name))  # raises for a value that is none
    documented = faults.inspect.getdoc(faults.ServerSettings) or ""
    assert all(variable in documented for variable in environment(name))


def test_the_gateways_command_and_variables_are_the_products() -> None:
    assert arguments("gateway") == ["python3", "-m", "gateway"]
    fields = {f.alias or faults.PREFIX + n.upper() for n, f in faults.Settings.model_fields.items()}
    assert environment("gateway").keys() <= fields
    assert gateway().urls == [f"server:{faults.parsed(faults.SERVE, [])['grpc_port']}"]


@pytest.mark.parametrize("name", ["export-cpu", "export-gpu"])
def test_the_exports_command_is_a_script_that_a_shell_takes(name: str) -> None:
    (path,) = arguments(name)
    script = faults.PROJECT / Path(path).relative_to("/opt/voicereel")
    assert script.stat().st_mode & 0o111
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    commands = re.findall(r"python3 -m export (.*)$", script.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    for line in commands:
        command, *words = shlex.split(line.replace('"$@"', ""))
        assert faults.parsed(faults.EXPORT.commands[command], words)


def test_a_stop_outlives_what_it_waits_for() -> None:
    def grace_s(name: str) -> int:
        return int(SERVICES[name]["stop_grace_period"].removesuffix("s"))

    for name in SERVERS:
        drain_s = faults.server_settings(environment(name)).drain_s
        assert drain_s >= gateway().timeout_s
        assert grace_s(name) >= drain_s + faults.EXIT_TIMEOUT_S + 5
    assert grace_s("gateway") >= gateway().drain_s + 5 >= gateway().timeout_s


def test_each_service_finds_the_others() -> None:
    """By the names that compose gives them, at the ports where they listen."""
    ports = faults.parsed(faults.SERVE, [])
    known = {f"server:{ports['metrics_port']}", f"gateway:{gateway().port}", "prometheus:9090"}
    scraped = read("prometheus/prometheus.yml")
    targets = [t for job in scraped["scrape_configs"] for s in job["static_configs"]
               for t in s["targets"]]  # fmt: skip
    sources = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    shown = [source["url"].removeprefix("http://") for source in sources["datasources"]]
    assert {*targets, *shown} == known
    assert all("server" in SERVICES[n]["networks"]["default"]["aliases"] for n in SERVERS)


def test_grafana_finds_its_dashboards() -> None:
    mounts = dict(v.split(":")[:2] for v in SERVICES["grafana"]["volumes"] if v.startswith("./"))
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/voicereel.yml").read_text()
    )
    paths = [each["options"]["path"] for each in provider["providers"]]
    assert paths == [mounts["./grafana/dashboards"]]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt install prometheus")
def test_prometheus_takes_what_is_mounted(tmp_path: Path) -> None:
    for volume in SERVICES["prometheus"]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("./"):
            shutil.copy(DEPLOY / source, tmp_path / Path(target).relative_to("/etc/prometheus"))
    command = ["promtool", "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout
