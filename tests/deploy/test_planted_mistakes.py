"""Each mistake in a manifest is found, and the words name it."""

from typing import Any

import pytest

from support.manifest_checks import faults_of
from support.manifests import Object, name_of, of_component

GONE = object()
# Where it is planted, the way to the field by spaces (`-` appends), what is put there, and words
# of the fault. `server`, `gateway` are the specs of their pods, `server:`, `gateway:` containers.
DEPLOYMENT, SERVICE = "Deployment/voicereel-server", "Service/voicereel-server"
BUDGET, POLICY = "PodDisruptionBudget/voicereel-server", "NetworkPolicy/voicereel-server"
GATEWAY_POLICY = "NetworkPolicy/voicereel-gateway"
SCALED, MONITOR = "ScaledObject/voicereel-server", "ServiceMonitor/voicereel-gateway"
HPA, INGRESS = "HorizontalPodAutoscaler/voicereel-server", "Ingress/voicereel-gateway"
NGINX = "metadata annotations nginx.ingress.kubernetes.io/proxy"


def variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


IN_KEDA: list[tuple[str, str, object, str]] = [
    # What Kubernetes refuses
    (DEPLOYMENT, "spec replica", 3, "'replica' was unexpected"),
    (DEPLOYMENT, "kind", "Deploiment", "False schema"),
    (SCALED, "apiVersion", "keda.k8s.io/v1", "apiVersion is keda.k8s.io/v1"),
    (SCALED, "spec triggers", GONE, "has no triggers"),
    # Hardening
    ("server", "securityContext runAsUser", 0, "may run as root"),
    ("server", "securityContext runAsNonRoot", GONE, "may run as root"),
    ("server", "securityContext seccompProfile", GONE, "seccomp"),
    ("server", "initContainers", [{"name": "bare", "image": "bare:1"}], "container bare"),
    ("server", "hostNetwork", True, "of its node"),
    ("server:", "securityContext capabilities add", ["SYS_PTRACE"], "not hardened"),
    ("server:", "securityContext privileged", True, "not hardened"),
    ("gateway:", "securityContext readOnlyRootFilesystem", GONE, "not hardened"),
    ("gateway:", "securityContext allowPrivilegeEscalation", True, "not hardened"),
    ("gateway", "automountServiceAccountToken", GONE, "token"),
    ("gateway", "enableServiceLinks", GONE, "as variables"),
    ("gateway:", "resources", GONE, "no bounds"),
    ("server:", "image", "voicereel-server:latest", "not of version"),
    ("server:", "image", "voicereel-server", "not of version"),
    ("server:", "image", "registry.example.com:5000/voicereel-server", "not of version"),
    # Commands and settings
    ("server:", "args 0", "launch.server", "expected launch.serve"),
    ("server:", "args -", "--drian=3", "--drian"),
    ("server:", "args -", "--drain=long", "drain"),
    ("server:", "env -", variable("FISH_SPEECH_PRECISION", "low"), "FISH_SPEECH_PRECISION is"),
    ("server:", "env -", variable("VOICEREEL_BATCHSIZE", "4"), "nobody reads VOICEREEL_BATCHSIZE"),
    ("gateway:", "env -", variable("VOICEREEL_GATEWAY_PROT", "1"), "nobody reads"),
    ("gateway:", "env 2", GONE, "there are no keys"),
    ("gateway:", "env -", variable("VOICEREEL_GATEWAY_KEY_HASHES", "0" * 64), "its value here"),
    # Ports and probes
    ("server:", "args 2", "--address=127.0.0.1", "listens at 127.0.0.1 only"),
    ("server:", "args -", "--grpc-port=9001", "ports are"),
    ("server:", "ports 1 containerPort", 9001, "ports are"),
    ("gateway:", "env -", variable("VOICEREEL_GATEWAY_PORT", "80"), "ports are"),
    ("server:", "readinessProbe httpGet path", "/ready", "asks /ready"),
    ("server:", "livenessProbe httpGet port", "grpc", "at port grpc"),
    ("gateway:", "livenessProbe httpGet path", "/health/ready", "livenessProbe asks"),
    ("gateway:", "readinessProbe httpGet path", "/health/live", "readinessProbe asks"),
    ("gateway:", "startupProbe", GONE, "has no startupProbe"),
    # Times
    ("server:", "startupProbe failureThreshold", 30, "has 150 s to start"),
    ("server:", "args -", "--deadline=3600", "may take 3720"),
    (DEPLOYMENT, "spec progressDeadlineSeconds", GONE, "is given up before its 750 s"),
    ("server", "terminationGracePeriodSeconds", GONE, "killed after 30 s"),
    ("server:", "env -", variable("VOICEREEL_DRAIN_S", "600"), "expected at least 655"),
    ("gateway:", "env -", variable("VOICEREEL_GATEWAY_DRAIN_S", "9"), "drains 9 s"),
    ("gateway:", "env -", variable("VOICEREEL_GATEWAY_TIMEOUT_S", "900"), "may take 900"),
    ("server:", "lifecycle preStop sleep seconds", 5, "preStop is over"),
    # Memory and volumes
    ("server", "volumes 1 emptyDir medium", GONE, "/dev/shm has"),
    ("server", "volumes 1 emptyDir sizeLimit", "64Mi", "/dev/shm has 0.0625 Gi"),
    ("server:", "volumeMounts 1 mountPath", "/shm", "/dev/shm has 0 Gi"),
    ("server:", "resources limits memory", "2Gi", "memory of 2 Gi"),
    ("server:", "volumeMounts 0 readOnly", GONE, "can write the weights"),
    ("server:", "volumeMounts 3", GONE, "is not mounted"),
    ("gateway:", "volumeMounts 0 name", "secrets", "there is no volume secrets"),
    ("gateway", "volumes 1 persistentVolumeClaim claimName", "voices", "no claim voices"),
    ("gateway", "volumes 2 emptyDir", {}, "has no bound"),
    ("", "", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}}, "a secret"),
    # Names that lead somewhere
    (SERVICE, "spec selector app.kubernetes.io/name", "tts", "selects no pods"),
    (SERVICE, "spec ports 1 targetPort", "prometheus", "no port prometheus"),
    (SERVICE, "spec ports 0 port", 80, "is headless"),
    (BUDGET, "", GONE, "no PodDisruptionBudget"),
    (BUDGET, "spec selector matchLabels app.kubernetes.io/name", "tts", "selects no pods"),
    ("server", "topologySpreadConstraints", GONE, "not spread"),
    (SERVICE, "spec clusterIP", GONE, "no headless"),
    ("gateway:", "env 1 value", "dns:///triton:8001", "no headless"),
    ("gateway:", "env 1 value", "voicereel-server:8001", "no headless"),
    # The network
    ("NetworkPolicy/voicereel-nothing-else", "", GONE, "not closed"),
    (POLICY, "spec ingress 0 ports -", {"port": "http"}, "opens grpc, http, metrics"),
    (POLICY, "spec ingress 0 from", GONE, "reaches the server's gRPC"),
    (POLICY, "spec ingress 0 from -", {"podSelector": {}}, "reaches the server's gRPC"),
    (POLICY, "spec ingress 1 from -", {"podSelector": {}}, "reaches the server's metrics"),
    (POLICY, "spec egress", [{}], "lets the server out"),
    (GATEWAY_POLICY, "spec egress 0 ports 0 port", 8000, "lets the gateway out to ports [8000]"),
    (GATEWAY_POLICY, "spec egress -", {"ports": [{"port": 53}]}, "lets the gateway out"),
    # Monitors, autoscalers, ways in
    (MONITOR, "spec endpoints 0 port", "metrics", "finds nothing at metrics"),
    (MONITOR, "spec endpoints 0 authorization", GONE, "has no key"),
    (SCALED, "spec triggers 0 metadata query", "sum(fish_llama_used)", "no metric fish_llama_used"),
    (SCALED, "spec scaleTargetRef name", "triton", "there is no Deployment/triton"),
    (DEPLOYMENT, "spec replicas", 2, "has replicas"),
    ("HTTPRoute/voicereel", "spec rules 0 timeouts", GONE, "have a timeout"),
    ("HTTPRoute/voicereel", "spec rules 0 backendRefs 0 name", "voicereel-server", "leads to"),
    ("Gateway/voicereel", "spec listeners 0 protocol", "HTTP", "no HTTPS Gateway"),
    (MONITOR, "metadata namespace", GONE, "lies in namespace None"),
    (
        SCALED,
        "spec triggers 0 metadata query",
        'fish_llama_slots{namespace="tts"}',
        "a query asks for namespace tts",
    ),
]
TRIGGERS = {"scaleTargetRef": {"name": "voicereel-server"}, "triggers": []}
SECOND = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}}
IN_HPA: list[tuple[str, str, object, str]] = [
    (HPA, "apiVersion", "autoscaling/v2beta2", "False schema"),
    (HPA, "spec metrics 0 pods metric name", "queue_us", "nothing makes the metric queue_us"),
    ("", "", SECOND | {"spec": TRIGGERS}, "is scaled by"),
    (INGRESS, f"{NGINX}-buffering", GONE, "proxy-buffering is None"),
    (INGRESS, f"{NGINX}-read-timeout", "60", "proxy-read-timeout is 60"),
    (INGRESS, f"{NGINX}-body-size", "1m", "proxy-body-size is 1m"),
    (INGRESS, "spec tls", GONE, "no certificate"),
    (INGRESS, "spec rules 0 http paths 0 backend service name", "voicereel-server", "leads to"),
]


def plant(objects: list[Object], where: str, way: str, value: object) -> None:
    """Put a value somewhere, or take it away."""
    if not where:
        return objects.append(value)
    if where.rstrip(":") in ("server", "gateway"):
        found = of_component(objects, where.rstrip(":"))
        thing: Any = found.container if where.endswith(":") else found.spec
    else:
        (thing,) = (each for each in objects if name_of(each) == where)
    if not way:
        return objects.remove(thing)
    *path, last = (int(word) if word.isdecimal() else word for word in way.split())
    for word in path:
        thing = thing[word]
    if value is GONE:
        del thing[last]
    elif last == "-":
        thing.append(value)
    else:
        thing[last] = value
    return None


@pytest.mark.parametrize(
    ("build", "mistake"),
    [
        pytest.param(build, mistake, id=f"{mistake[0]} {mistake[1]}")
        for build, mistakes in (("keda", IN_KEDA), ("hpa", IN_HPA))
        for mistake in mistakes
    ],
)
def test_a_planted_mistake_is_found(whole, build: str, mistake: tuple) -> None:
    *where, words = mistake
    objects = whole(build)
    plant(objects, *where)
    found = faults_of(objects)
    assert any(words in fault for fault in found), found
