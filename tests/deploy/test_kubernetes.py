"""What each overlay of deploy/kubernetes yields, as a whole; and that each mistake is found."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support import kustomize
from support import manifest_faults as faults
from support import manifest_links as links
from support.manifest_checks import OF_ALL, faults_of
from support.manifests import (
    KUBERNETES,
    TRIED_WITH,
    Object,
    as_written,
    name_of,
    of_component,
    of_kind,
    pods,
    rendered,
)

COMPONENTS = KUBERNETES / "components"
NOT_OBJECTS = ("inference-service.yaml", "prometheus-adapter.yaml")  # filled in; another's values
SERVING = ("cpu", "gpu", "gpu-multi", "kserve")


@pytest.mark.parametrize(
    ("path", "objects"), list(as_written()), ids=lambda value: getattr(value, "name", "")
)
def test_every_file_is_what_kubernetes_takes(path: Path, objects: list[Object]) -> None:
    if path.name not in NOT_OBJECTS:
        assert list(faults.schema(objects)) == []
        by_overlays = "has no bounds"  # of memory and cores
        assert [f for f in faults.hardened(objects) if by_overlays not in f] == []


FOLDERS = ["storage", "export", *(f"overlays/{overlay}" for overlay in SERVING)]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl: it is compared with it")
@pytest.mark.parametrize("name", [*FOLDERS, *TRIED_WITH])
def test_what_stands_in_for_kubectl_renders_the_same(name: str, whole, own_overlay) -> None:
    objects = whole(name) if name in TRIED_WITH else rendered(name)
    folder = own_overlay(name, None) if name in TRIED_WITH else KUBERNETES / name
    assert {name_of(t): t for t in kustomize.build(folder)} == {name_of(t): t for t in objects}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"resources": ["../cpu"], "helmCharts": []}, "helmCharts is not done here"),
        ({"resources": ["../cpu"], "replicas": [{"name": "none", "count": 1}]}, "there is no"),
    ],
)
def test_what_it_does_not_do_is_said(own_overlay, asked: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kustomize.build(own_overlay("refused", yaml.safe_dump(asked)))


@pytest.mark.parametrize("overlay", SERVING)
def test_an_overlay_is_right_as_a_whole(overlay: str) -> None:
    assert faults_of(rendered(f"overlays/{overlay}")) == []


OWN = {
    "one server, five gateways": {
        "resources": ["../cpu"],
        "replicas": [{"name": "voicereel-server", "count": 1},
                     {"name": "voicereel-gateway", "count": 5}],
    },
    "several GPUs, scaled": {
        "resources": ["../gpu-multi"],
        "components": ["../../components/hpa", "../../components/gateway-api"],
    },
    "an installation over an installation": {
        "resources": ["../one-server-five-gateways"],
        "components": ["../../components/monitoring", "../../components/ingress"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_an_overlay_of_ones_own_is_right_as_a_whole(own_overlay, name: str) -> None:
    for each in OWN:  # one rests on another
        folder = own_overlay(re.sub(r"\W+", "-", each), yaml.safe_dump(OWN[each]))
        if each == name:
            objects = rendered(folder)
            assert faults_of(objects) == []
            ours = {name_of(t): t for t in kustomize.build(folder)}
            assert ours == {name_of(t): t for t in objects}


@pytest.mark.parametrize("folder", ["storage", "export"])
def test_what_comes_before_is_right(folder: str) -> None:
    assert faults_of(rendered(folder), OF_ALL) == []


@pytest.mark.parametrize("name", TRIED_WITH)
def test_components_fit_together(name: str, whole) -> None:
    assert faults_of(whole(name)) == []


def test_every_component_is_tried_and_every_overlay() -> None:
    assert {path.name for path in COMPONENTS.iterdir()} == {
        c for w in TRIED_WITH.values() for c in w
    }
    assert {path.name for path in (KUBERNETES / "overlays").iterdir()} == set(SERVING)


def test_each_overlay_has_its_profile_and_its_gpus() -> None:
    for overlay, profile, gpus in (
        ("cpu", "cpu", 0), ("gpu", "gpu", 1), ("gpu-multi", "gpu_multi", 4), ("kserve", "gpu", 1)
    ):  # fmt: skip
        server = of_component(rendered(f"overlays/{overlay}"), "server")
        assert faults.serving(server)["profile"] == profile
        assert server.container["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus
        configs = faults.PROJECT / "model_repository/fish_llama/configs"
        assert (configs / f"{profile}.pbtxt").is_file()


def test_the_server_reads_what_the_export_writes() -> None:
    (job,) = pods(rendered("export"))
    server = of_component(rendered("overlays/cpu"), "server")
    assert links.exported_is_served(job, server)
    assert job.owner.endswith("-v1") and str(faults.serving(server)["repository"]) == "/models/v1"


def test_pods_that_are_less_hardened_are_refused_by_the_namespace() -> None:
    (namespace,) = of_kind(rendered("storage"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for folder in ("storage", "export", *(f"overlays/{overlay}" for overlay in SERVING)):
        for thing in set(map(name_of, rendered(folder))) - {"Namespace/voicereel"}:
            (found,) = (t for t in rendered(folder) if name_of(t) == thing)
            assert found["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_threads_are_as_many_as_the_container_has_cores() -> None:
    for folder in ("export", *(f"overlays/{overlay}" for overlay in SERVING)):
        for each in pods(rendered(folder)):
            if each.labels.get("app.kubernetes.io/component") != "gateway":
                (threads,) = (e for e in each.container["env"] if e["name"] == "OMP_NUM_THREADS")
                assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "limits.cpu"}}
                assert each.container["resources"]["limits"]["cpu"].isdecimal()


def test_gateways_are_added_before_they_refuse(whole) -> None:
    limit = faults.Settings.model_fields["max_streams"].default
    (hpa,) = (t for t in whole("hpa") if name_of(t) == "HorizontalPodAutoscaler/voicereel-gateway")
    (_, by_streams) = hpa["spec"]["metrics"]
    assert int(by_streams["pods"]["target"]["averageValue"]) == 0.75 * limit
    (keda,) = (t for t in whole("keda") if name_of(t) == "ScaledObject/voicereel-gateway")
    assert int(keda["spec"]["triggers"][0]["metadata"]["threshold"]) == 0.75 * limit


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt install prometheus")
def test_prometheus_takes_the_queries(whole, tmp_path: Path) -> None:
    rules = [{"record": "x", "expr": query} for query in links.queries(whole("keda"))]
    assert len(rules) == 5
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_those_of_the_dockerfiles() -> None:
    """Their user, the command that the arguments here continue, and the folders they write to."""
    files = {path.name: path.read_text() for path in faults.PROJECT.glob("deploy/Dockerfile*")}
    if not files:
        pytest.skip("deploy/ has no Dockerfiles")
    deployment = rendered("overlays/cpu")
    for name, text in files.items():
        component = "gateway" if name.endswith("gateway") else "server"
        each = of_component(deployment, component)
        context = each.spec["securityContext"]
        user = f"{context['runAsUser']}:{context['runAsGroup']}"
        assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == user, name
        entry = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[-1]
        module = ["gateway"] if component == "gateway" else []
        assert json.loads(entry) == ["python3", "-m", *module], name
        mounts = {
            m["mountPath"] for m in of_component(deployment, component).container["volumeMounts"]
        }
        (home,) = re.findall(r"\bHOME=(\S+)", text)
        assert home in mounts, name
