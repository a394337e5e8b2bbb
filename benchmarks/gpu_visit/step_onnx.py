"""The codec by ONNX Runtime, served by the committed config.pbtxt as it is."""

import importlib
import importlib.util
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_visit import artefacts, clock
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.step_serve import DEADLINE_S, workload
from benchmarks.gpu_visit.visit import Skipped, Visit
from benchmarks.speed.bench import Bench
from engine.codec.decoder import DecoderGraph
from ensemble.contract.facts import Facts
from export.codec import export_decoder, export_encoder
from families.registry import family_of
from launch.server import Server
from voicereel import Client

_TENSORRT = "TensorrtExecutionProvider"
_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def run(visit: Visit, results: Results) -> None:
    """Export the codec as ONNX, compared with upstream on the CPU, and serve the workload."""
    require_runtime(visit.device)
    made = artefacts.served(visit)
    results.put("differences", _export(visit, made))
    log = visit.out / "server-onnx.log"
    with (
        Server(made.repository, deadline_s=DEADLINE_S, log_path=log) as server,
        Client(server.grpc_url, timeout_s=DEADLINE_S) as client,
    ):
        bench = Bench(server, client)
        if not visit.tiny:
            bench.run(bench.voices)
        results.put("workload", workload(bench, 1 if visit.tiny else 3))
    results.put("tensorrt", tensorrt(visit, made.repository / "fish_decoder" / "1" / "model.onnx"))


def require_runtime(device: str) -> None:
    """Raises `Skipped`, where ONNX Runtime or the exporter's package is missing."""
    for module, package in (("onnx", "onnx"), ("onnxruntime", "onnxruntime-gpu")):
        if importlib.util.find_spec(module) is None:
            raise Skipped(f"needs {package}, which is neither in the pack nor on this machine")
        try:
            importlib.import_module(module)
        except ImportError as error:  # of another protobuf or numpy than the pack's
            raise Skipped(f"needs {package}, whose import fails here: {error}") from error
    import onnxruntime

    found = onnxruntime.get_available_providers()
    if _PROVIDERS[device] not in found:
        raise Skipped(
            f"needs onnxruntime-gpu: onnxruntime {onnxruntime.__version__} of this machine has "
            f"{', '.join(found)}"
        )


def tensorrt(visit: Visit, graph: Path) -> Any:
    """Milliseconds of a window by NVIDIA's TensorRT in half precision, by new frames; or what it
    lacks.
    """
    if importlib.util.find_spec("tensorrt") is None:
        return "lacks: tensorrt"
    import onnxruntime

    if _TENSORRT not in onnxruntime.get_available_providers():
        return f"lacks: {_TENSORRT} of onnxruntime"
    providers: list[Any] = [(_TENSORRT, {"trt_fp16_enable": True}), _PROVIDERS["cuda"]]
    session = onnxruntime.InferenceSession(str(graph), providers=providers)
    facts, found = Facts.load(graph.parents[2] / "fish_llama" / "1"), {}
    for new in (8,) if visit.tiny else (8, 64):
        feed = {
            "codes": np.zeros((1, facts.num_codebooks, new), np.int64),
            "new_frames": np.arange(new)[None],
        }
        run = partial(session.run, None, feed)  # its results are on the CPU: it has waited
        found[new] = 1e3 * clock.seconds(run, "cpu", repeats=5)
    return found


def _export(visit: Visit, made: artefacts.Artefacts) -> dict[str, float]:
    """Put `model.onnx` beside the codec's `model.pt`; how far each file is from upstream."""
    family = family_of(made.checkpoint)
    codec = family.load_codec(family.load_checkpoint(made.checkpoint))
    facts = Facts.load(made.repository / "fish_llama" / "1")
    decoder = DecoderGraph(codec).eval()
    with tempfile.TemporaryDirectory(dir=visit.work) as new:
        encoders, decoders = (Path(new, name, "1") for name in ("fish_encoder", "fish_decoder"))
        comparisons = export_encoder(codec, facts, encoders, print)
        comparisons += export_decoder(codec, decoder, facts, decoders, print)
        for folder in (encoders, decoders):
            target = made.repository / folder.parent.name / "1" / "model.onnx"
            os.replace(folder / "model.onnx", target)
    return {c.artefact: c.error for c in comparisons}
