"""What is wrong with manifests: every fault is one line that names the object.

Ports, paths, settings and times are the product's, imported; nothing is written down twice.
"""

import functools
import importlib.resources
import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import tomllib
import typer
from referencing import Registry, Resource

from ensemble.contract.settings import ServerSettings, server_settings
from export.__main__ import app as export_app
from gateway.app import ROUTES
from gateway.settings import PREFIX, Settings, read_settings
from launch import doors, serve, shared_memory
from launch.server import EXIT_TIMEOUT_S
from support.manifests import (
    COMPONENT,
    Object,
    Pods,
    gibibytes,
    name_of,
    of_component,
    of_kind,
    pods,
)
from voicereel import ConfigurationError
from voicereel.transport import servers as gateway_servers

PROJECT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
# The oldest Kubernetes with the preStop action sleep unasked, and the newest with a schema.
KUBERNETES_VERSIONS = ("1.30", "1.37")
TRITON_PATHS = {"/v2/health/live", "/v2/health/ready"}
CUSTOM = {  # API version, and fields of the spec that must be there
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
    "ScaledObject": ("keda.sh/v1alpha1", {"scaleTargetRef", "triggers"}),
    "InferenceService": ("serving.kserve.io/v1beta1", {"predictor"}),
    "Gateway": ("gateway.networking.k8s.io/v1", {"gatewayClassName", "listeners"}),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", {"parentRefs", "rules"}),
}
KSERVES_OWN = {"minReplicas", "maxReplicas", "deploymentStrategy"}
_PROCESS_VARIABLES = {"HOME", "OMP_NUM_THREADS"}

serve_app = typer.Typer()
serve_app.command()(serve.main)
SERVE: Any = typer.main.get_command(serve_app)
EXPORT: Any = typer.main.get_command(export_app)


def schema(objects: list[Object]) -> Iterator[str]:
    """What Kubernetes' own schemas refuse; of kinds that it has not, the fields that must be."""
    for thing in objects:
        version, fields = CUSTOM.get(thing["kind"], ("", set()))
        if not version:
            yield from _refused(thing, name_of(thing))
            continue
        if thing["apiVersion"] != version:
            yield f"{name_of(thing)}: apiVersion is {thing['apiVersion']}, expected {version}"
        if missing := fields - thing["spec"].keys():
            yield f"{name_of(thing)}: has no {', '.join(sorted(missing))}"
        if thing["kind"] == "InferenceService":
            predictor = thing["spec"]["predictor"]
            spec = {k: v for k, v in predictor.items() if k not in KSERVES_OWN}
            yield from _refused(
                {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec}, name_of(thing)
            )


def _refused(thing: Object, name: str) -> Iterator[str]:
    yield from (f"{name}: {why}" for why in _why_refused(json.dumps(thing)))


@functools.cache  # most objects are those of the test before
def _why_refused(text: str) -> list[str]:
    thing, found = json.loads(text), []
    newest = KUBERNETES_VERSIONS[-1:]  # image volumes are newer than the oldest
    for version in newest if '"image": {' in text else KUBERNETES_VERSIONS:
        for error in _validator(thing["kind"], thing["apiVersion"], version).iter_errors(thing):
            where = ".".join(map(str, error.absolute_path))
            found.append(f"Kubernetes {version}: {where}: {error.message[:300]}")
    return found


@functools.cache  # kubernetes_validate.validate reads 2 MB for each object
def _validator(kind: str, api_version: str, version: str) -> Any:
    group, _, number = api_version.rpartition("/")
    group = f"{group.partition('.')[0]}-" if group else ""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    file = folder / f"v{version}.0-local-strict" / f"{kind.lower()}-{group}{number}.json"
    if not file.is_file():
        return jsonschema.Draft202012Validator(False)  # there is no such kind
    definitions = json.loads((folder / f"v{version}.0-local-strict/_definitions.json").read_text())
    registry = Resource.from_contents(definitions) @ Registry()
    return jsonschema.Draft202012Validator(json.loads(file.read_text()), registry=registry)


def hardened(objects: list[Object]) -> Iterator[str]:
    """Pods that could do more than they need."""
    wanted = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for each in pods(objects):
        spec, context = each.spec, each.spec.get("securityContext", {})
        checks = {
            "has a token of the cluster": spec.get("automountServiceAccountToken") is False,
            "gets services as variables, which our settings read": spec.get("enableServiceLinks")
            is False,
            "may run as root": context.get("runAsNonRoot") is True and context.get("runAsUser", 0),
            "has no seccomp profile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "shares a namespace of its node": not any(
                spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")
            ),
        }
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            resources = container.get("resources", {})
            checks |= {
                f"container {container['name']} is not hardened": container.get("securityContext")
                == wanted,
                f"container {container['name']} has no bounds": "memory"
                in resources.get("limits", {})
                and resources.get("requests", {}).keys() >= {"cpu", "memory"},
            }
        yield from (f"{each.owner}: {fault}" for fault, is_right in checks.items() if not is_right)


def images(objects: list[Object]) -> Iterator[str]:
    """Images without a version, or with another than this project's."""
    for each in pods(objects):
        for container in each.spec["containers"]:
            tag = container["image"].rpartition(":")[2]
            if not re.fullmatch(rf"{re.escape(VERSION)}(-[a-z]+)?", tag):
                yield f"{each.owner}: image {container['image']} is not of version {VERSION}"


def parsed(command: Any, arguments: list[str]) -> dict[str, Any]:
    """The arguments of one of our commands, as it reads them.

    Raises:
        typer.TyperException: In the words that its user gets.
    """
    return command.make_context("command", list(arguments)).params


def commands(objects: list[Object]) -> Iterator[str]:
    """Arguments that `launch.serve` and `export run` do not take."""
    for each in pods(objects):
        try:
            if each.labels.get(COMPONENT) == "server":
                serving(each)
            elif each.owner.startswith("Job/"):
                exporting(each)
        except typer.TyperException as error:
            yield f"{each.owner}: {error.format_message()}"


def serving(server: Pods) -> dict[str, Any]:
    """Parameters of the server's command."""
    return parsed(SERVE, _after(["launch.serve"], server))


def exporting(job: Pods) -> dict[str, Any]:
    """Parameters of `export run`."""
    return parsed(EXPORT.commands["run"], _after(["export", "run"], job))


def _after(words: list[str], each: Pods) -> list[str]:
    """The arguments that follow; the images run `python3 -m`."""
    arguments = each.container.get("args", [])
    if "command" in each.container or arguments[: len(words)] != words:
        raise typer.BadParameter(f"runs {' '.join(arguments)}, expected {' '.join(words)} ...")
    return arguments[len(words) :]


def settings(objects: list[Object]) -> Iterator[str]:
    """Variables that nobody reads, or with values that are refused."""
    for each in pods(objects):
        component = each.labels.get(COMPONENT)
        names = {e["name"] for e in each.container.get("env", [])} - _PROCESS_VARIABLES
        documented = inspect.getdoc(ServerSettings) or ""
        fields = {f.alias or PREFIX + name.upper() for name, f in Settings.model_fields.items()}
        known = fields if component == "gateway" else set(re.findall(r"[A-Z_]{9,}", documented))
        yield from (f"{each.owner}: nobody reads {name}" for name in sorted(names - known))
        try:
            if component == "server":
                server_settings(each.environment)
            elif component == "gateway":
                gateway_settings(each)
        except (ValueError, ConfigurationError) as error:
            yield f"{each.owner}: {error}"


def gateway_settings(gateway: Pods) -> Settings:
    """What the gateway reads from its environment; the file of keys holds one."""
    return _gateway_settings(frozenset(gateway.environment.items()))


@functools.cache
def _gateway_settings(environment: frozenset[tuple[str, str]]) -> Settings:
    given = dict(environment)
    if given.pop(f"{PREFIX}KEYS_FILE", None):
        given[f"{PREFIX}KEY_HASHES"] = "0" * 64
    others = {k: v for k, v in os.environ.items() if not k.startswith("VOICEREEL_")}
    with mock.patch.dict(os.environ, others | given, clear=True):
        return read_settings()


def ports_and_probes(objects: list[Object]) -> Iterator[str]:
    """Ports other than where the product listens, and probes of doors that there are not."""
    for each in pods(objects):
        component = each.labels.get(COMPONENT)
        if component == "server":
            arguments = serving(each)
            wanted = {use: arguments[f"{use}_port"] for use in ("http", "grpc", "metrics")}
            paths, ready = TRITON_PATHS, "/v2/health/ready"
            if arguments["address"] != "0.0.0.0":
                yield f"{each.owner}: listens at {arguments['address']} only"
        elif component == "gateway":
            wanted = {"http": gateway_settings(each).port}
            paths, ready = {route.path for route in ROUTES}, "/health/ready"
        else:
            continue
        if each.ports != wanted:
            yield f"{each.owner}: ports are {each.ports}, expected {wanted}"
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = each.container.get(kind, {}).get("httpGet")
            if asked is None:
                yield f"{each.owner}: has no {kind}"
            elif asked["path"] not in paths or asked["port"] != "http":
                yield f"{each.owner}: {kind} asks {asked['path']} at port {asked['port']}"
            elif (asked["path"] == ready) != (kind == "readinessProbe") and kind != "startupProbe":
                yield f"{each.owner}: {kind} asks {asked['path']}"


def times(objects: list[Object]) -> Iterator[str]:
    """Starts that are given up too early, and stops that cut streams off."""
    for component in ("server", "gateway"):
        each = of_component(objects, component)
        probe = each.container["startupProbe"]
        budget = probe["periodSeconds"] * probe["failureThreshold"]
        gateway = gateway_settings(of_component(objects, "gateway"))
        if component == "server":
            needed = serving(each)["deadline"] + len(doors._WORDLESS) * doors._TIMEOUT_S
            drain = server_settings(each.environment).drain_s
            end = EXIT_TIMEOUT_S + 5  # as `Server.stop` waits for a server without requests
        else:
            needed, drain, end = 30, gateway.drain_s, 5
        if budget < needed:
            yield f"{each.owner}: has {budget} s to start, and may take {needed:g}"
        for deployment in of_kind(objects, "Deployment"):
            limit = deployment["spec"].get("progressDeadlineSeconds", 600)
            if name_of(deployment) == each.owner and limit <= budget:
                yield f"{each.owner}: is given up before its {budget} s to start are over"
        if drain < gateway.timeout_s:
            yield f"{each.owner}: drains {drain} s, and a request may take {gateway.timeout_s:g}"
        if each.pre_stop_s <= gateway_servers.RESOLVE_S:
            yield f"{each.owner}: preStop is over before gateways have looked names up again"
        grace = each.spec.get("terminationGracePeriodSeconds", 30)
        if grace < (least := each.pre_stop_s + drain + end):
            yield f"{each.owner}: is killed after {grace} s, expected at least {least}"


def memory(objects: list[Object]) -> Iterator[str]:
    """/dev/shm that is missing or small, and that the container's memory does not hold."""
    each = of_component(objects, "server")
    mounted = {m["mountPath"]: m["name"] for m in each.container["volumeMounts"]}
    volumes = {v["name"]: v for v in each.spec["volumes"]}
    shared = volumes.get(mounted.get("/dev/shm", ""), {}).get("emptyDir", {})
    size = gibibytes(shared.get("sizeLimit", "0Gi"))
    if shared.get("medium") != "Memory" or size * 2**30 < shared_memory.ENOUGH:
        yield f"{each.owner}: /dev/shm has {size:g} Gi of memory"
    limit = gibibytes(each.container["resources"]["limits"]["memory"])
    if limit < 4 * size:
        yield f"{each.owner}: memory of {limit:g} Gi, a quarter and more of it for /dev/shm"
