"""The files of `deploy/` are well-formed, and agree with the product and with each other."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomllib
import yaml

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile*"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
IMAGES = {"voicereel-server:cpu": "Dockerfile.cpu", "voicereel-server:gpu": "Dockerfile",
          "voicereel-gateway": "Dockerfile.gateway"}  # fmt: skip


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Keyword and rest of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def of(dockerfile: Path, keyword: str) -> list[str]:
    """What follows a keyword in the last stage."""
    found = instructions(dockerfile)
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return [rest for word, rest in found[last:] if word == keyword]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file of the project into the build."""
    inside = True
    for line in (PROJECT / ".dockerignore").read_text().split("\n"):
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#"):
            parents = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 2)]
            if any(fnmatch.fnmatch(p, pattern.replace("**/", "*")) for p in parents):
                inside = line.startswith("!")
    return inside


def committed() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_linted(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_copied_file_is_in_the_context(dockerfile: Path) -> None:
    for keyword, rest in instructions(dockerfile):
        if keyword == "COPY" and "--from" not in rest:
            for source in shlex.split(rest)[:-1]:
                assert (PROJECT / source).exists(), source
                inside = [p for p in committed() if p == source or p.startswith(f"{source}/")]
                assert source == "." or any(map(in_context, inside)), source


def test_the_context_has_what_serves_and_exports_and_nothing_else() -> None:
    inside = [path for path in committed() if in_context(path)]
    folders = {path.partition("/")[0] for path in inside}
    needed = {"backends", "engine", "ensemble", "export", "families", "gateway", "launch",
              "model_repository", "requirements", "client", "deploy", "LICENSE"}  # fmt: skip
    assert folders - {"proxy"} == needed
    assert all(p.startswith("client/voicereel/") for p in inside if p.startswith("client/"))
    assert [p for p in inside if p.startswith("deploy/")] == ["deploy/export_job.sh"]
    for secret in (
        "model_repository/fish_llama/1/llama.pt",
        "checkpoints/s1/model.pth",
        ".git/x",
        "assets/demo/weights.npz",
        "deploy/keys.txt",
        "engine/__pycache__/a.pyc",
    ):
        assert not in_context(secret), secret
    assert in_context("model_repository/fish_llama/1/model.py")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_each_image_is_hardened_and_labelled(dockerfile: Path) -> None:
    assert of(dockerfile, "USER") == ["10001:10001"]
    assert len(of(dockerfile, "HEALTHCHECK")) == 1
    (labels,) = of(dockerfile, "LABEL")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert f"VERSION={project['version']}" in of(dockerfile, "ARG")
    assert f'licenses="{project["license"]}"' in labels
    for name in ("title", "description", "version", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    pinned = [rest for word, rest in instructions(dockerfile) if word == "ARG" and "BASE" in rest]
    assert f'base.name="{_full(pinned[0].partition("=")[2])}"' in labels


def _full(image: str) -> str:
    return image if "/" in image else f"docker.io/library/{image}"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_requirements_come_before_the_code(dockerfile: Path) -> None:
    copies = [rest for word, rest in instructions(dockerfile) if word == "COPY"]
    assert copies[0].startswith("requirements/")  # a change of code leaves their layer as it is


def test_the_images_open_the_products_ports() -> None:
    serve = (PROJECT / "launch" / "serve.py").read_text()
    ports = re.findall(r'(?:http|grpc|metrics)_port: .*free one\."\)\] = (\d+)', serve)
    assert len(ports) == 3
    for name in ("Dockerfile", "Dockerfile.cpu"):
        assert of(DEPLOY / name, "EXPOSE") == [" ".join(ports)]
        assert f"127.0.0.1:{ports[0]}/v2/health/ready" in of(DEPLOY / name, "HEALTHCHECK")[0]
    from gateway.settings import Settings

    port = str(Settings.model_fields["port"].default)
    assert of(DEPLOY / "Dockerfile.gateway", "EXPOSE") == [port]
    assert f"{ports[1]}:{ports[1]}" in SERVICES["server-cpu"]["ports"][0]
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert SERVICES["gateway"]["environment"]["VOICEREEL_GATEWAY_SERVERS"] == f"server:{ports[1]}"


def test_the_file_of_keys_holds_none_and_is_read() -> None:
    from gateway.settings import Settings

    file = re.sub(r"\$\{\w+:-(.*)\}", r"\1", COMPOSE["secrets"]["gateway_keys"]["file"])
    assert Settings(keys_file=DEPLOY / file).hashes == frozenset()


def test_the_commands_of_the_images_are_the_products() -> None:
    for name, profile in (("Dockerfile", "gpu"), ("Dockerfile.cpu", "cpu")):
        assert json.loads(of(DEPLOY / name, "ENTRYPOINT")[0]) == ["python3", "-m"]
        module, *options = json.loads(of(DEPLOY / name, "CMD")[0])
        assert module == "launch.serve" and options[-2:] == ["--profile", profile]
        assert list(PROJECT.glob(f"model_repository/*/configs/{profile}.pbtxt"))
        serve = (PROJECT / "launch" / "serve.py").read_text()
        for option in options[::2]:
            assert f"    {option.removeprefix('--')}: " in serve


def test_compose_is_valid() -> None:
    # Its own requirements are not installed, so it is not imported.
    package = Path(str(distribution("check-jsonschema").locate_file("check_jsonschema")))
    schema = json.loads((package / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"a": {"imaje": "b"}}}, schema)


def test_compose_builds_the_images_that_it_runs() -> None:
    for service in SERVICES.values():
        if build := service.get("build"):
            assert build["dockerfile"] == f"deploy/{IMAGES[service['image']]}"
            assert (DEPLOY / build["context"]).resolve() == PROJECT
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])  # pinned


def test_what_compose_mounts_exists() -> None:
    named = set(COMPOSE["volumes"])
    secrets = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", s["file"]) for s in COMPOSE["secrets"].values()]
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            place = volume if isinstance(volume, str) else volume["source"]
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", place).partition(":")[0]
            if source not in named:
                assert (DEPLOY / source).exists(), volume
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    assert secrets and all((DEPLOY / path).is_file() for path in secrets)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_is_a_whole(profile: str) -> None:
    running = {name for name, service in SERVICES.items() if profile in service["profiles"]}
    assert running == {f"export-{profile}", f"server-{profile}", "gateway", "prometheus", "grafana"}
    conditions = {"service_healthy": "healthcheck", "service_completed_successfully": ""}
    for name in running:
        for other, how in SERVICES[name].get("depends_on", {}).items():
            assert other in running or how.get("required") is False
            image = SERVICES[other]["image"]
            proof = conditions[how["condition"]]
            assert not proof or image in IMAGES or proof in SERVICES[other]


def test_every_service_is_hardened() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(p.startswith("127.0.0.1:") for p in service.get("ports", [])), name
        assert service["restart"] == ("no" if "export" in name else "unless-stopped"), name
    for name in ("server-cpu", "server-gpu"):
        assert SERVICES[name]["shm_size"] == "1gb"
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["server"]
        # Backends and kernels are programs that are loaded from there.
        assert "exec" in SERVICES[name]["tmpfs"][0].split(":")[1]
