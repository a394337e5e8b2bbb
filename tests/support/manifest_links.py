"""Names in manifests that lead nowhere, or to where they must not. As `manifest_faults`."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gateway.metrics import Metrics
from gateway.settings import PREFIX
from support.manifest_faults import exporting, gateway_settings, serving
from support.manifests import KUBERNETES, Object, Pods, name_of, of_component, of_kind, pods

LLAMA_METRICS = Path(__file__).resolve().parents[2] / "ensemble/serving/metrics.py"
SPREAD = {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
ADAPTER = KUBERNETES / "components" / "hpa" / "prometheus-adapter.yaml"


def selected(selector: dict[str, str], objects: list[Object]) -> list[Pods]:
    """Pods with these labels."""
    return [p for p in pods(objects) if selector.items() <= p.labels.items()]


def selectors(objects: list[Object]) -> Iterator[str]:
    """Services, budgets, policies and spreads that select no pods, and ports that are not there."""
    for thing in of_kind(objects, "Service"):
        found = selected(thing["spec"]["selector"], objects)
        if not found:
            yield f"{name_of(thing)}: selects no pods"
        for port in thing["spec"]["ports"]:
            if not all(port["targetPort"] in p.ports for p in found):
                yield f"{name_of(thing)}: there is no port {port['targetPort']}"
            own = found[0].ports.get(port["targetPort"]) if found else None
            if thing["spec"].get("clusterIP") == "None" and port["port"] != own:
                yield f"{name_of(thing)}: is headless, so its port {port['port']} is {own}"
    for thing in of_kind(objects, "PodDisruptionBudget", "NetworkPolicy"):
        selector = thing["spec"].get("selector", thing["spec"].get("podSelector"))
        if not selected(selector.get("matchLabels", {}), objects):
            yield f"{name_of(thing)}: selects no pods"
    for thing in of_kind(objects, "Deployment"):
        (own,) = pods([thing])
        spreads = own.spec.get("topologySpreadConstraints", [])
        budgets = of_kind(objects, "PodDisruptionBudget")
        if not any(own in selected(b["spec"]["selector"]["matchLabels"], [thing]) for b in budgets):
            yield f"{name_of(thing)}: has no PodDisruptionBudget"
        apart = {s["topologyKey"] for s in spreads} == SPREAD
        if not (
            apart and all(selected(s["labelSelector"]["matchLabels"], [thing]) for s in spreads)
        ):
            yield f"{name_of(thing)}: is not spread over nodes and zones"


def balancing(objects: list[Object]) -> Iterator[str]:
    """Servers of the gateway that are no headless Service: one connection would be one server."""
    gateway = of_component(objects, "gateway")
    for url in gateway_settings(gateway).urls:
        name, _, port = url.removeprefix("dns:///").rpartition(":")
        service = next(
            (s for s in of_kind(objects, "Service") if s["metadata"]["name"] == name), None
        )
        is_right = (
            service is not None
            and url.startswith("dns:///")
            and service["spec"].get("clusterIP") == "None"
            and any(
                p["name"] == "grpc" and p["port"] == int(port) for p in service["spec"]["ports"]
            )
        )
        if not is_right:
            yield f"{gateway.owner}: {PREFIX}SERVERS has {url}, which is no headless Service's grpc"


def network(objects: list[Object]) -> Iterator[str]:
    """Ways to the server for others than the gateway and Prometheus, and pods without a policy."""
    policies = list(of_kind(objects, "NetworkPolicy"))
    if not any(
        p["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for p in policies
    ):
        yield "NetworkPolicy: what is not named is not closed"
    server, gateway = of_component(objects, "server"), of_component(objects, "gateway")
    opened: dict[str, list[Object]] = {}
    for policy in policies:
        if server in selected(policy["spec"]["podSelector"].get("matchLabels", {}), objects):
            for rule in policy["spec"].get("ingress", []):
                for port in rule.get("ports", [{"port": "every port"}]):
                    opened.setdefault(port["port"], []).extend(rule.get("from", [{}]))
            if policy["spec"].get("egress"):
                yield f"{name_of(policy)}: lets the server out"
        if gateway in selected(policy["spec"]["podSelector"].get("matchLabels", {}), objects):
            for rule in policy["spec"].get("egress", []):
                out = {port.get("port") for port in rule.get("ports", [])}
                if out not in ({server.ports["grpc"]}, {53}) or not rule.get("to"):
                    yield f"{name_of(policy)}: lets the gateway out to ports {sorted(out)}"
    if opened.keys() != {"grpc", "metrics"}:
        yield f"NetworkPolicy: opens {', '.join(sorted(opened))} of the server"
    for peer in opened.get("grpc", []):
        labels = peer.get("podSelector", {}).get("matchLabels", {})
        if not labels or "namespaceSelector" in peer or selected(labels, objects) != [gateway]:
            yield f"NetworkPolicy: {peer} reaches the server's gRPC"
    for peer in opened.get("metrics", []):
        if "prometheus" not in str(peer.get("podSelector")) or "namespaceSelector" not in peer:
            yield f"NetworkPolicy: {peer} reaches the server's metrics"


@functools.cache
def _claims() -> set[str]:
    storage = list(yaml.safe_load_all((KUBERNETES / "storage" / "storage.yaml").read_text()))
    return {s["metadata"]["name"] for s in of_kind(storage, "PersistentVolumeClaim")}


def volumes(objects: list[Object]) -> Iterator[str]:
    """Mounts without a volume, claims that storage/ does not make, weights that can be written."""
    claims = _claims()
    for each in pods(objects):
        known = {v["name"]: v for v in each.spec.get("volumes", [])}
        for mount in each.container.get("volumeMounts", []):
            volume = known.pop(mount["name"], None)
            if volume is None:
                yield f"{each.owner}: there is no volume {mount['name']}"
                continue
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{each.owner}: storage/ makes no claim {claim}"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{each.owner}: volume {mount['name']} has no bound"
            is_weights = mount["mountPath"] == "/models" and not each.owner.startswith(
                ("Job", "Pod")
            )
            if is_weights and not mount.get("readOnly"):
                yield f"{each.owner}: can write the weights"
        yield from (f"{each.owner}: volume {name} is not mounted" for name in known)


def secrets(objects: list[Object]) -> Iterator[str]:
    """Secrets in the manifests, and keys in plain variables."""
    yield from (f"{name_of(s)}: is a secret in the repository" for s in of_kind(objects, "Secret"))
    for each in pods(objects):
        plain = {n for n in each.environment if "KEY" in n and not n.endswith("_FILE")}
        yield from (f"{each.owner}: {name} has its value here" for name in sorted(plain))


def monitors(objects: list[Object]) -> Iterator[str]:
    """Monitors of no Service, or of a port that it has not."""
    for monitor in of_kind(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [
            s for s in of_kind(objects, "Service") if wanted <= s["metadata"]["labels"].items()
        ]
        ports = {p["name"] for s in found for p in s["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint["port"] not in ports or endpoint["path"] != "/metrics":
                yield f"{name_of(monitor)}: finds nothing at {endpoint['port']}{endpoint['path']}"
            if "gateway" in name_of(monitor) and "authorization" not in endpoint:
                yield f"{name_of(monitor)}: has no key, and the gateway asks for one"


@functools.cache
def product_metrics() -> set[str]:
    """Names of the metrics that the gateway and the LLaMA stage have, as they are scraped."""
    metrics, labels = Metrics(), ("speech", "tts-1", "mp3")
    metrics.ended(labels, "done", 0.1, 1.0, 2.0, 0.0)
    page = metrics.page(0, {})[0].decode()
    gateway = set(re.findall(r"^(voicereel_gateway_\w+)", page, re.MULTILINE))
    return gateway | set(re.findall(r'"(fish_llama_\w+)"', LLAMA_METRICS.read_text()))


@functools.cache
def _adapter_rules() -> list[Object]:
    return yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]


def queries(objects: list[Object]) -> list[str]:
    """PromQL of autoscalers, KEDA's and prometheus-adapter's."""
    triggers = [t for s in of_kind(objects, "ScaledObject") for t in s["spec"]["triggers"]]
    keda = [t["metadata"]["query"] for t in triggers if t["type"] == "prometheus"]
    adapter = [r["metricsQuery"].replace("<<.GroupBy>>", "pod") for r in _adapter_rules()]
    return keda + [query.replace("<<.LabelMatchers>>", "") for query in adapter]


def autoscaling(objects: list[Object]) -> Iterator[str]:
    """Autoscalers of nothing, on metrics that there are not, or beside a number of replicas."""
    scaled: dict[str, list[str]] = {}
    made = {r.get("name", {}).get("as") or r["seriesQuery"].split("{")[0] for r in _adapter_rules()}
    for thing in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = "Deployment/" + thing["spec"]["scaleTargetRef"]["name"]
        scaled.setdefault(target, []).append(name_of(thing))
        for metric in thing["spec"].get("metrics", []):
            name = metric.get("pods", {}).get("metric", {}).get("name")
            if name is not None and name not in made:
                yield f"{name_of(thing)}: nothing makes the metric {name}"
    deployments = {name_of(d): d["spec"] for d in of_kind(objects, "Deployment")}
    for target, by in scaled.items():
        if target not in deployments:
            yield f"{by[0]}: there is no {target}"
        elif len(by) > 1:
            yield f"{target}: is scaled by {' and '.join(by)}"
        elif "replicas" in deployments[target]:
            yield f"{target}: has replicas, which {by[0]} decides"
    for query in queries(objects):
        names = set(re.findall(r"\b(?:fish_llama|voicereel)_\w+", query))
        for name in sorted(names - product_metrics()):
            yield f"there is no metric {name}"


def namespaces(objects: list[Object]) -> Iterator[str]:
    """Objects that `kubectl apply` would put elsewhere, where they find nothing; also queries."""
    gateway = next(d for d in of_kind(objects, "Deployment") if "gateway" in name_of(d))
    own = gateway["metadata"].get("namespace")
    for thing in objects:
        if (found := thing["metadata"].get("namespace")) != own:
            yield f"{name_of(thing)}: lies in namespace {found}, and the gateway in {own}"
    for query in queries(list(of_kind(objects, "ScaledObject"))):
        for found in set(re.findall(r'namespace="([^"]*)"', query)) - {own}:
            yield f"a query asks for namespace {found}, and the gateway lies in {own}"


def doors(objects: list[Object]) -> Iterator[str]:
    """Ways in from outside that lead nowhere, buffer audio, or cut streams and bodies."""
    services = {s["metadata"]["name"]: s["spec"]["ports"] for s in of_kind(objects, "Service")}
    gateway = gateway_settings(of_component(objects, "gateway"))
    for thing in of_kind(objects, "Ingress"):
        prefix = "nginx.ingress.kubernetes.io/"
        given = {k.removeprefix(prefix): v for k, v in thing["metadata"]["annotations"].items()}
        wanted = {
            "proxy-buffering": "off", "proxy-http-version": "1.1",
            "proxy-body-size": f"{gateway.max_body_mib}m",
            "proxy-read-timeout": f"{gateway.timeout_s:g}",
        }  # fmt: skip
        for name, value in wanted.items():
            if given.get(name) != value:
                yield f"{name_of(thing)}: {name} is {given.get(name)}, expected {value}"
        for path in [p for rule in thing["spec"]["rules"] for p in rule["http"]["paths"]]:
            backend = path["backend"]["service"]
            yield from _nowhere(thing, services, backend["name"], backend["port"].get("name"))
        if not thing["spec"].get("tls"):
            yield f"{name_of(thing)}: has no certificate, and keys travel through it"
    listeners = {g["metadata"]["name"]: g["spec"]["listeners"] for g in of_kind(objects, "Gateway")}
    for thing in of_kind(objects, "HTTPRoute"):
        for parent in thing["spec"]["parentRefs"]:
            found = listeners.get(parent["name"], [])
            if not found or any(each["protocol"] != "HTTPS" for each in found):
                yield f"{name_of(thing)}: hangs at {parent['name']}, which is no HTTPS Gateway here"
        for rule in thing["spec"]["rules"]:
            if rule.get("timeouts", {}).get("request") != "0s":
                yield f"{name_of(thing)}: live sessions have a timeout"
            for backend in rule["backendRefs"]:
                yield from _nowhere(thing, services, backend["name"], backend["port"])


def _nowhere(thing: Object, services: dict[str, Any], name: str, port: object) -> Iterator[str]:
    found = [value for each in services.get(name, []) for value in (each["name"], each["port"])]
    if name != "voicereel-gateway" or port not in found:
        yield f"{name_of(thing)}: leads to {name}:{port}"


def exported_is_served(job: Pods, server: Pods) -> bool:
    """Whether the server reads the folder that the export writes."""
    return str(exporting(job)["repository"]) == str(serving(server)["repository"])
