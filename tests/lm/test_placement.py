"""Where a model runs and in which numbers, and what is said of a machine that cannot."""

import re

import pytest

torch = pytest.importorskip("torch")

from engine.kernels import cpu
from engine.lm.placement import Placement, placement_for
from ensemble.contract.settings import ROUNDINGS, ServerSettings

pytestmark = pytest.mark.torch
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[False, True], ids=["no GPU", "a GPU"])
def has_gpu(request, monkeypatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


def test_it_goes_where_triton_places_it_unless_the_cpu_is_asked_for(has_gpu) -> None:
    best = CUDA if has_gpu else CPU
    assert placement_for(ServerSettings()).device == best
    assert placement_for(ServerSettings(), "cpu").device == CPU
    assert placement_for(ServerSettings(), "cuda:1").device == torch.device("cuda:1")
    assert placement_for(ServerSettings("cpu"), "cuda:1").device == CPU


def test_cuda_needs_a_gpu(has_gpu) -> None:
    if has_gpu:
        assert placement_for(ServerSettings("cuda")).device == CUDA
        assert placement_for(ServerSettings("cuda"), "cpu").device == CPU
    else:
        with pytest.raises(ValueError, match="FISH_SPEECH_DEVICE is cuda, but torch sees no GPU"):
            placement_for(ServerSettings("cuda"))


def test_half_is_what_the_device_computes_fast() -> None:
    dtypes = {"half": None, "full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for instance, half in (("cpu", torch.bfloat16), ("cuda:0", torch.float16)):
        for precision, dtype in dtypes.items():
            placement = placement_for(ServerSettings(precision=precision), instance)
            assert placement == Placement(torch.device(instance), dtype or half)


@pytest.mark.parametrize("better", [(), ("avx_vnni",), ("avx512_vnni", "amx_int8")])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_is_for_every_cpu_with_avx2(monkeypatch, better, rounding) -> None:
    settings = ServerSettings(precision=rounding)
    monkeypatch.setattr(cpu, "instructions", lambda: {"avx2", *better})
    assert placement_for(settings, "cpu") == Placement(CPU, torch.bfloat16, rounding=rounding)
    with pytest.raises(ValueError, match=r"for CPUs with AVX2; the model is on cuda:0\. Use half"):
        placement_for(settings, "cuda:0")


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_is_refused_without_avx2(monkeypatch, machine, rounding) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: {"avx", "sse4_2"} if "x86" in machine else {})
    monkeypatch.setattr("platform.machine", lambda: machine)
    said = (
        f"is {rounding}, which is for CPUs with AVX2; this CPU ({machine}) has no AVX2. Use half."
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        placement_for(ServerSettings(precision=rounding), "cpu")
