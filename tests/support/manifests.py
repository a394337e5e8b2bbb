"""Kubernetes manifests as `kubectl kustomize` renders them, and ways through them.

Where there is no kubectl, which no package of Python brings, `support.kustomize` renders them.
"""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support import kustomize

KUBERNETES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
Object = dict[str, Any]
# A whole deployment by each way in and each autoscaler: the overlay cpu with these components.
TRIED_WITH = {
    "keda": ("monitoring", "keda", "gateway-api"),
    "hpa": ("monitoring", "hpa", "ingress", "image-volume"),
}


def rendered(folder: Path | str) -> list[Object]:
    """The objects that a folder yields: a path, or one in deploy/kubernetes."""
    return deepcopy(_rendered(KUBERNETES / folder))


def as_written() -> Iterator[tuple[Path, list[Object]]]:
    """Every file of objects, before kustomize puts them together."""
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield path, [thing for thing in yaml.safe_load_all(path.read_text()) if thing]


@functools.cache
def _rendered(folder: Path) -> list[Object]:
    if not shutil.which("kubectl"):
        return kustomize.build(folder)
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warns of what is deprecated
    return list(yaml.safe_load_all(done.stdout))


@dataclass(frozen=True)
class Pods:
    """What makes pods.

    Attributes:
        owner: Its kind and name.
        spec: Of the pods.
        labels: Of the pods.
    """

    owner: str
    spec: Object
    labels: dict[str, str]

    @property
    def container(self) -> Object:
        """The only one."""
        (only,) = self.spec["containers"]
        return only

    @property
    def ports(self) -> dict[str, int]:
        return {p["name"]: p["containerPort"] for p in self.container.get("ports", [])}

    @property
    def environment(self) -> dict[str, str]:
        """Variables that have a value."""
        return {e["name"]: e["value"] for e in self.container.get("env", []) if "value" in e}

    @property
    def pre_stop_s(self) -> int:
        return self.container["lifecycle"]["preStop"]["sleep"]["seconds"]


def name_of(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> Iterator[Object]:
    return (thing for thing in objects if thing["kind"] in kinds)


def pods(objects: list[Object]) -> Iterator[Pods]:
    for thing in objects:
        spec, labels = thing.get("spec", {}), thing["metadata"].get("labels", {})
        if thing["kind"] in ("Deployment", "Job"):
            template = spec["template"]
            labels = template.get("metadata", {}).get("labels", {})
            yield Pods(name_of(thing), template["spec"], labels)
        elif thing["kind"] == "Pod":
            yield Pods(name_of(thing), spec, labels)
        elif thing["kind"] == "InferenceService":  # KServe hands its labels on
            yield Pods(name_of(thing), spec["predictor"], labels)


def of_component(objects: list[Object], component: str) -> Pods:
    """The server's pods, or the gateway's."""
    (found,) = (p for p in pods(objects) if p.labels.get(COMPONENT) == component)
    return found


COMPONENT = "app.kubernetes.io/component"


def gibibytes(quantity: str) -> float:
    """Gi of a quantity of memory."""
    units = {"Mi": 1 / 1024, "Gi": 1.0}
    return float(quantity[:-2]) * units[quantity[-2:]]
