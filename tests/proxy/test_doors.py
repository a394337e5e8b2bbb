"""Which doors are open, and to whom."""

import logging

import grpc
import pytest
from tritonclient.grpc import service_pb2

from proxy.doors import GROUPS, Doors
from proxy.refusals import Refusal
from proxy.settings import key_of, opened_of
from support.proxied import logged, proxied

KEY = "0123456789abcdef"
CLOSED = {  # group: HTTP doors, gRPC methods
    "shared-memory": (
        ["GET /v2/systemsharedmemory/status", "POST /v2/systemsharedmemory/region/a/register",
         "POST /v2/cudasharedmemory/unregister", "GET /v2/cudasharedmemory/region/a/status"],
        ["SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
         "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"],
    ),
    "logging": (["GET /v2/logging", "POST /v2/logging"], ["LogSettings"]),
    "trace": (["POST /v2/trace/setting", "GET /v2/models/a/trace/setting"], ["TraceSetting"]),
    "model-control": (
        ["POST /v2/repository/models/a/load", "POST /v2/repository/models/a/unload"],
        ["RepositoryModelLoad", "RepositoryModelUnload"],
    ),
    "repository": (["POST /v2/repository/index"], ["RepositoryIndex"]),
}  # fmt: skip


@pytest.mark.parametrize("group", CLOSED)
def test_administrative_doors_are_closed_but_to_the_operator(group) -> None:
    closed, opened = Doors(key=KEY), Doors(frozenset([group]))
    http, grpc_methods = CLOSED[group]
    for method, path in (each.split() for each in http):
        with pytest.raises(Refusal, match=f"closed.*--open {group}") as refused:
            closed.http(method, path, {"admin-key": KEY[:-1]})
        assert (refused.value.http, refused.value.code.name) == (403, "PERMISSION_DENIED")
        assert closed.http(method, path, {"admin-key": KEY}) == opened.http(method, path, {})
    for name in grpc_methods:
        method = f"/inference.GRPCInferenceService/{name}"
        with pytest.raises(Refusal, match=f"--open {group}"):
            closed.grpc(method, {})
        assert closed.grpc(method, {"triton-grpc-protocol-admin-key": KEY}) == name
        assert opened.grpc(method, {}) == name


def test_every_method_of_the_service_is_known() -> None:
    named = {name for _, names in CLOSED.values() for name in names}
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    doors = Doors()
    for method in service.methods:
        if method.name not in named:
            assert doors.grpc(f"/inference.GRPCInferenceService/{method.name}", {}) == method.name


def test_without_a_key_no_key_opens() -> None:
    with pytest.raises(Refusal):
        Doors().http("POST", "/v2/logging", {"admin-key": ""})


@pytest.mark.parametrize(
    "asked",
    ["GET /", "GET /v2/models/a/../b", "GET /v2/models/%2e%2e/ready", "DELETE /v2/models/a",
     "POST /v2/health/ready", "GET /v2/models/a/infer", "GET /metrics", "POST /v2/models/a/b/infer",
     "GET //v2", "GET /v2/models/a\n", "POST /v2/repository/models/a/b/load"],
)  # fmt: skip
def test_paths_that_there_are_not(asked) -> None:
    method, _, path = asked.partition(" ")
    with pytest.raises(Refusal, match="there is no") as refused:
        Doors(frozenset(GROUPS)).http(method, path, {})
    assert refused.value.http == 404


@pytest.mark.parametrize(
    "model", ["fish_prompt", "fish_llama", "fish_decoder", "fish_encoder", "fish_reference"]
)
def test_inner_models_take_work_from_the_others_only(door, model) -> None:
    answer = door.http.post(f"/v2/models/{model}/infer", content=b"{}")
    assert answer.status_code == 403
    assert answer.json()["error"] == (
        f"{model}: this model is a part of others and takes work from them only. Ask fish_tts, "
        "fish_clone, fish_tts_stream, fish_clone_stream, fish_encode, or start the proxy with "
        "--open inner"
    )
    Doors(frozenset(["inner"])).model(model, {})
    Doors(key=KEY).model(model, {"admin-key": KEY})


def test_over_the_wire(door) -> None:
    assert door.http.get("/v2/nothing").status_code == 404
    assert door.http.post("/v2/logging", content=b"{}").status_code == 403
    with grpc.insecure_channel(door.grpc_url) as channel:
        for method, code in (
            ("inference.GRPCInferenceService/LogSettings", "PERMISSION_DENIED"),
            ("inference.GRPCInferenceService/Nothing", "UNIMPLEMENTED"),
            ("another.Service/Nothing", "UNIMPLEMENTED"),
        ):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/{method}")(b"", timeout=5)
            assert error.value.code().name == code
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=5) == b"\x08\x01"
    page = door.metrics()
    assert 'voicereel_proxy_refused_total{reason="closed"} 2.0' in page


def test_settings_that_cannot_be(tmp_path) -> None:
    with pytest.raises(ValueError, match="--open has 'all', expected some of shared-memory"):
        opened_of("trace, all")
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o644)
    with pytest.raises(ValueError, match="can be read by others"):
        key_of(key)
    key.chmod(0o600)
    assert key_of(key) == KEY and key_of(None) == ""
    key.write_text("short")
    with pytest.raises(ValueError, match="has 5 characters, expected 16"):
        key_of(key)
    with pytest.raises(ValueError, match="No such file"):
        key_of(tmp_path / "none")


def test_a_line_for_each_request(door, caplog) -> None:
    with caplog.at_level(logging.INFO, "voicereel.proxy"):
        door.http.get("/v2/models/fish_tts")
        door.http.get("/nothing")
    done, refused = logged(caplog)
    assert '"door": "http", "asked": "GET /v2/models/fish_tts", "model": "fish_tts"' in done
    assert '"status": "200", "outcome": "done"' in done and '"bytes_out": ' in done
    assert '"status": "404", "outcome": "refused"' in refused and '"reason": "unknown"' in refused


def test_the_supervisors_state_is_among_the_metrics(upstream, upstream_http, tmp_path) -> None:
    state = tmp_path / "state"
    state.write_text("voicereel_supervisor_restarts_total 3")
    with proxied(
        server_grpc=upstream.url, server_metrics=upstream_http.url, state=state, probe_s=0
    ) as door:
        page = door.metrics()
        assert "fish_llama_slots 4\nvoicereel_supervisor_restarts_total 3\n# HELP " in page
        assert "voicereel_proxy_server_ready 1.0" in page and door.proxy.load.slots == 4
        state.unlink()
        assert "voicereel_proxy_in_flight 0.0" in door.metrics()
