"""What `kubectl kustomize` does, as far as deploy/kubernetes/ asks for it; for where there is none.

Anything else in a kustomization.yaml is refused. `tests/deploy/test_kubernetes.py` compares every
folder with what kubectl itself yields.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_HEAD = {"apiVersion", "kind"}
_CLUSTERS_OWN = {"Namespace"}  # kinds that lie in no namespace


def build(folder: Path) -> list[Object]:
    """The objects that a folder yields.

    Raises:
        ValueError: If it asks for what this does not do, or changes what is not there.
    """
    return _applied(folder, [])


def _applied(folder: Path, objects: list[Object]) -> list[Object]:
    """These objects and those of a folder, as its kustomization.yaml has them."""
    asked = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    steps = {"patches": _patch, "images": _image, "replicas": _replicas, "replacements": _replace}
    if unknown := asked.keys() - _HEAD - steps.keys() - {"namespace", "resources", "components"}:
        raise ValueError(f"{folder}: {', '.join(sorted(unknown))} is not done here")
    for name in asked.get("resources", []):
        path = folder / name
        objects = objects + (build(path) if path.is_dir() else _read(path))
    for name in asked.get("components", []):
        objects = _applied(folder / name, objects)
    for key, step in steps.items():
        for each in asked.get(key, []):
            step(objects, each)
    for thing in objects if "namespace" in asked else ():
        if thing["kind"] not in _CLUSTERS_OWN:
            thing["metadata"]["namespace"] = asked["namespace"]
    return objects


def _read(path: Path) -> list[Object]:
    return [thing for thing in yaml.safe_load_all(path.read_text("utf-8")) if thing]


def _selected(objects: list[Object], wanted: Object) -> list[Object]:
    """Objects of a kind, and of a name that is a pattern; at least one."""
    if unknown := wanted.keys() - {"kind", "name"}:
        raise ValueError(f"{wanted}: {', '.join(unknown)} is not done here")
    found = [
        thing for thing in objects
        if re.fullmatch(wanted.get("kind", ".*"), thing["kind"])
        and re.fullmatch(wanted.get("name", ".*"), thing["metadata"]["name"])
    ]  # fmt: skip
    if not found:
        raise ValueError(f"there is no {wanted}")
    return found


def _patch(objects: list[Object], asked: Object) -> None:
    patch = yaml.safe_load(asked["patch"])
    if isinstance(patch, list):
        for thing in _selected(objects, asked["target"]):
            for operation in patch:
                _operate(thing, **deepcopy(operation))
    elif patch.pop("$patch", "") == "delete" and patch.keys() == _HEAD | {"metadata"}:
        wanted = {"kind": patch["kind"], "name": patch["metadata"]["name"]}
        for thing in _selected(objects, wanted):
            objects.remove(thing)
    else:
        raise ValueError(f"patch {asked['patch']!r} is not done here")


def _operate(thing: Object, op: str, path: str, value: Any = None) -> None:
    """One operation of a JSON patch (RFC 6902)."""
    *way, last = (each.replace("~1", "/").replace("~0", "~") for each in path.split("/")[1:])
    holder: Any = thing
    for key in way:
        holder = holder[_key(holder, key)]
    there = last != "-" and (isinstance(holder, list) or last in holder)
    if op != "add" and not there:
        raise ValueError(f"{op} {path}: it is not there")
    if op == "add" and isinstance(holder, list):
        holder.insert(len(holder) if last == "-" else int(last), value)
    elif op in ("add", "replace"):
        holder[_key(holder, last)] = value
    elif op == "remove":
        del holder[_key(holder, last)]
    elif op != "test" or holder[_key(holder, last)] != value:
        raise ValueError(f"{op} {path} {value}")


def _key(holder: Any, key: str) -> Any:
    return int(key) if isinstance(holder, list) else key


def _image(objects: list[Object], asked: Object) -> None:
    for container in _containers(objects):
        if container["image"].partition(":")[0] == asked["name"]:
            container["image"] = f"{asked['newName']}:{asked['newTag']}"


def _containers(holder: Any) -> Iterator[Object]:
    """Every container within, wherever it is."""
    if isinstance(holder, dict):
        for key, value in holder.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from _containers(value)
    elif isinstance(holder, list):
        for each in holder:
            yield from _containers(each)


def _replicas(objects: list[Object], asked: Object) -> None:
    for thing in _selected(objects, {"kind": "Deployment", "name": asked["name"]}):
        thing["spec"]["replicas"] = asked["count"]


def _replace(objects: list[Object], asked: Object) -> None:
    (value,) = _selected(objects, {k: asked["source"][k] for k in ("kind", "name")})
    for key in asked["source"]["fieldPath"].split("."):
        value = value[key]
    for target in asked["targets"]:
        for thing in _selected(objects, target["select"]):
            for path in target["fieldPaths"]:
                *way, last = path.split(".")
                holder: Any = thing
                for key in way:
                    holder = holder[key]
                if last not in holder:
                    raise ValueError(f"replacement of {path}: it is not there")
                holder[last] = deepcopy(value)
