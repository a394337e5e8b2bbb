"""What a visit found, as a file of tables and as one line of JSON.

`gpu.md` is what the GPU tables of the documentation are made from. It is written anew after every
step, so a visit that is cut off leaves one of what it had.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_visit.goals import GOALS
from benchmarks.gpu_visit.results import OUTCOME, Found, read
from benchmarks.gpu_visit.visit import Visit

TABLES, LINE = "gpu.md", "visit.json"
_NONE = "–"  # noqa: RUF001 - a dash in a table's empty cell


def write(visit: Visit) -> str:
    """Write both files from the results so far; the text of the line."""
    found = read(visit.out)
    (visit.out / TABLES).write_text(tables(found, visit), "utf-8")
    line = json.dumps(headline(found, visit))
    (visit.out / LINE).write_text(line + "\n", "utf-8")
    return line


def headline(found: Found, visit: Visit) -> dict[str, Any]:
    """The figures that one visit is compared with another by; None was not measured."""
    card, serve, llama = (found.get(name, {}) for name in ("card", "serve", "llama"))
    workload, exact = serve.get("workload", {}), found.get("exact", {})
    single = serve.get("single_stream", {})
    return {
        "card": card.get("card", {}).get("name"),
        "device": visit.device,
        "preset": visit.preset,
        "driver": card.get("driver"),
        "versions": card.get("versions"),
        "commit": card.get("commit"),
        "tests_failed": sorted(found.get("tests", {}).get("failed", {})),
        "exact": exact.get("exact"),
        "workload_wall_s": workload.get("wall_s"),
        "workload_rtf": workload.get("rtf"),
        "single_ttfa_s": single.get("ttfa_s"),
        "streams": {
            str(row["streams"]): {n: row[n] for n in ("ttfa_s_p50", "audio_s_per_s", "underruns")}
            for row in serve.get("streams", [])
        },
        "step_ms": {
            f"{row['precision']}_b{row['batch']}": row["step_ms"] for row in llama.get("steps", [])
        },
        "goals": {goal.name: goal.verdict(found)[1] for goal in GOALS},
        "outcomes": {step: values.get(OUTCOME, {}).get("state") for step, values in found.items()},
    }


def tables(found: Found, visit: Visit) -> str:
    """All that was measured, in Markdown, and at the end what was not."""
    card = found.get("card", {})
    name = card.get("card", {}).get("name", "an unknown card")
    versions = ", ".join(f"{k} {v}" for k, v in (card.get("versions") or {}).items() if v)
    rates = card.get("rates", {})
    about = [f"# {name}"]
    if card:
        commit, driver = (card.get(key) or _NONE for key in ("commit", "driver"))
        about.append(
            f"{visit.preset}, random weights; driver {driver}; {versions}; commit {commit}."
        )
    if rates:
        products = ", ".join(f"{k} {_text(v)}" for k, v in rates["tflops"].items())
        read = _text(rates["read_gb_per_s"])
        about.append(f"Memory is read at {read} GB/s; matrix products, TFLOP/s: {products}.")
    return "\n\n".join([*about, *filter(None, (part(found) for part in _PARTS))]) + "\n"


def _tests(found: Found) -> str:
    tests = found.get("tests", {})
    rows = [[name, f"{count} passed"] for name, count in tests.get("passed", {}).items()]
    rows += [[n, f"**failed**: {why}"] for n, why in tests.get("failed", {}).items()]
    rows += [[n, f"skipped: {why}"] for n, why in tests.get("skipped", {}).items()]
    return _table("Tests", ["test", "result"], rows)


def _exact(found: Found) -> str:
    exact = found.get("exact", {})
    limits = exact.get("limits", {})
    rows = [
        [n.replace("_", " "), v, limits.get(n)] for n, v in exact.get("differences", {}).items()
    ]
    return _table("How exact the codec is", ["difference", "found", "limit"], rows)


def _workload(found: Found) -> str:
    rows = []
    for step, name in (("serve", "gpu profile"), ("onnx", "config.pbtxt as it is, ONNX")):
        work = found.get(step, {}).get("workload")
        if work:
            codec_s = work["stages_s"].get("codec")
            encoding = found[step].get("with_encoding_s")
            rows.append([name, work["audio_s"], work["wall_s"], work["rtf"], codec_s, encoding])
    columns = ["served by", "audio, s", "wall, s", "RTF", "codec, s", "wall with encoding, s"]
    return _table("The brief's workload", columns, rows)


def _streams(found: Found) -> str:
    serve = found.get("serve", {})
    names = ("streams", "ttfa_s_p50", "ttfa_s_p95", "audio_s_per_s", "underruns", "underrun_s",
             "llama_batch", "decoder_batch")  # fmt: skip
    rows = [[row[n] for n in names] + [_sizes(row)] for row in serve.get("streams", [])]
    columns = ["streams", "first audio p50, s", "p95, s", "audio s per s", "underruns",
               "silence, s", "LLaMA batch", "decoder batch", "batches by size"]  # fmt: skip
    return _table("Streams side by side", columns, rows)


def _sizes(row: dict[str, Any]) -> str:
    sizes = row["batches"].get("fish_decoder", {})
    return ", ".join(f"{size}: {count}" for size, count in sizes.items())


def _steps(found: Found) -> str:
    rows = [
        [r["precision"], r["batch"], r["kv"], r["step_ms"], r["frames_per_s"], r["ratio"]]
        + [r["phase_ms"].get(n) for n in ("decode_step", "fast_loop", "sample")]
        + [r["phase_ratio"].get(n) for n in ("decode_step", "fast_loop")]
        for r in found.get("llama", {}).get("steps", [])
    ]
    columns = ["precision", "batch", "positions", "step, ms", "frames/s", "times the bound",
               "decode, ms", "fast loop, ms", "sample, ms", "decode, times its bound",
               "fast loop, times its bound"]  # fmt: skip
    return _table("A step of the LLaMA stage", columns, rows)


def _prefill(found: Found) -> str:
    names = ("precision", "positions", "ms", "ratio")
    rows = [[row[n] for n in names] for row in found.get("llama", {}).get("prefill", [])]
    return _table("Prefill", ["precision", "positions", "ms", "times the bound"], rows)


def _codec(found: Found) -> str:
    names = ("precision", "batch", "new", "history", "ms", "rtf", "ratio", "bound_by")
    rows = [
        [what] + [row.get(n) for n in names]
        for what in ("decode", "encode")
        for row in found.get("codec", {}).get(what, [])
    ]
    columns = ["what", "precision", "batch", "frames", "history", "ms", "RTF", "times the bound",
               "bound by"]  # fmt: skip
    return _table("The codec", columns, rows)


def _codec_kernels(found: Found) -> str:
    names = ("precision", "replayed", "batch", "new", "ms", "rtf", "ratio")
    rows = [
        [*(row[n] for n in names), -20 * math.log10(max(row["noise"], 1e-9))]
        for row in found.get("codec", {}).get("kernels", [])
    ]
    columns = ["products of", "replayed", "batch", "frames", "ms", "RTF",
               "times float32's bound", "dB from float32"]  # fmt: skip
    tensorrt = found.get("onnx", {}).get("tensorrt")
    said = [] if tensorrt is None else [["TensorRT", None, 1, None, tensorrt, None, None, None]]
    return _table("The decoder by kernels", columns, rows + said)


def _first_audio(found: Found) -> str:
    hops = found.get("serve", {}).get("first_audio", {})
    rows = [[hop, 1e3 * seconds] for hop, seconds in hops.items()]
    return _table("The way to the first audio", ["hop", "ms"], rows)


def _goals(found: Found) -> str:
    rows = [[g.name, f"{'>=' if g.least else '<='} {g.limit:g}", *g.verdict(found)] for g in GOALS]
    return _table("Goals", ["of one H100 or H200", "goal", "found", "verdict"], rows)


def _kernels(found: Found) -> str:
    rows = [
        [where.replace("_", " "), f"`{row['kernel']}`", row["calls"], row["ms"], row["share"]]
        for where, kernels in found.get("kernels", {}).items()
        if isinstance(kernels, list)
        for row in kernels
    ]
    return _table("The slowest kernels", ["where", "kernel", "calls", "ms", "share"], rows)


def _not_measured(found: Found) -> str:
    rows = []
    for step, values in found.items():
        outcome = values.get(OUTCOME, {"state": "cut off", "seconds": None})
        if outcome["state"] != "done":
            rows.append([step, outcome["state"], outcome["seconds"], outcome.get("why")])
    return _table("Not measured", ["step", "outcome", "s", "why"], rows)


_PARTS: Sequence[Callable[[Found], str]] = (
    _goals, _tests, _exact, _workload, _streams, _first_audio, _steps, _prefill, _codec,
    _codec_kernels, _kernels, _not_measured,
)  # fmt: skip


def _table(title: str, columns: list[str], rows: list[list[Any]]) -> str:
    """Markdown; nothing if there are no rows."""
    if not rows:
        return ""
    lines = [columns, ["--"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join([f"## {title}", *("| " + " | ".join(line) + " |" for line in lines)])


def _text(value: Any) -> str:
    if value is None:
        return _NONE
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "/").replace("\n", " ")


def show(out: Path) -> str:
    """The tables of a visit, for the terminal."""
    return (out / TABLES).read_text("utf-8")
