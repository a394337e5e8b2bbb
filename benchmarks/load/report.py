"""results/report.md: tables and plots of the load sweep and the cost curves."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.answers import GAPS_MS, gapless
from benchmarks.load import plots
from benchmarks.load.sweep import Row

TEMPLATES = Path(__file__).parent / "templates"
FOLDER = "report"  # beside report.md: plots, rows as CSV, facts of each run as JSON

_LIMITS = " / ".join(map(str, GAPS_MS))
_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("load", lambda r: f"{r['level']:g}" + ("" if r["closed"] else " /s")),
    ("answers", lambda r: f"{r['answers']}"),
    ("requests/s", lambda r: f"{r['requests_per_s']:.2f}"),
    ("RTF of all", lambda r: f"**{r['rtf']:.2f}**"),
    ("RTF of one, p50 / p95", lambda r: f"{r['request_rtf_p50']:.2f} / {r['request_rtf_p95']:.2f}"),
    ("TTFA p50 / p95 / p99, s", lambda r: _three(r, "ttfa_s")),
    ("whole answer p50 / p95 / p99, s", lambda r: _three(r, "latency_s")),
    ("gap p50 / p95 / max, s", lambda r: _gaps(r)),
    ("underrun, s (gaps, answers)", lambda r: _underrun(r)),
    (f"no gap over {_LIMITS} ms, %", lambda r: _gapless(r)),
    ("batch LLaMA / decoder", lambda r: f"{r['llama_batch']:.1f} / {r['decoder_batch']:.1f}"),
    ("prefix hits", lambda r: f"{r['prefix_hits']:.0f}"),
)
_STREAMED = ("TTFA p50 / p95 / p99, s", *(name for name, _ in _COLUMNS if "gap" in name))
_HEADINGS = {
    ("fish_tts_stream", True): "Streaming (`fish_tts_stream`), closed loop: requests in flight",
    ("fish_tts_stream", False): "Streaming, open loop: arrivals a second, Poisson",
    ("fish_tts", True): "Whole answers (`fish_tts`), closed loop",
    ("fish_tts", False): "Whole answers, open loop",
}


def write(folder: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Keep facts and rows of a sweep, and render the report from all files that are kept.

    Args:
        folder: Receives report.md, and `report/` with all else.
        facts: Command, machine, commit and so on of the sweep.
        rows: One for each load.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    _write_csv(folder / FOLDER / "load.csv", rows)
    (folder / FOLDER / "load.json").write_text(json.dumps(facts, indent=1) + "\n")
    render(folder)


def write_cost(folder: Path, name: str, series: dict[str, Any]) -> None:
    """Keep the cost curves of one run as `report/cost-NAME.json`, and render the report."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / FOLDER / f"cost-{name}.json").write_text(json.dumps(series, indent=1) + "\n")
    render(folder)


def render(folder: Path) -> None:
    """Write report.md and its plots from the CSV and JSON files beside it."""
    kept = folder / FOLDER
    parts = []
    if (kept / "load.csv").exists():
        facts, rows = json.loads((kept / "load.json").read_text()), read_csv(kept / "load.csv")
        done = [row for row in rows if not row["error"]]
        plots.loads(done, kept)
        parts += [_opening(facts), *_tables(rows), _pictures(plots.LOADS)]
    for path in sorted(kept.glob("cost-*.json")):
        series = json.loads(path.read_text())
        plots.cost(series, kept, path.stem)
        parts += [_cost(series), _pictures({path.stem: "Cost against size."})]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _write_csv(path: Path, table: Sequence[Row]) -> None:
    """Write all columns that any row has, numbers to four digits."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def read_csv(path: Path) -> list[Row]:
    """Rows of a CSV file, numbers as numbers; empty cells are left out, except `error`."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {k: _value(v) for k, v in row.items() if v or k == "error"}
            for row in csv.DictReader(file)
        ]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if not text.isdecimal() else int(text)
    except ValueError:
        return text


def _opening(facts: dict[str, Any]) -> str:
    commands = "\n".join(facts["perf_analyzer"])
    return _filled("load.md", facts | {"perf_analyzer": commands})


def _filled(template: str, values: dict[str, Any]) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values).strip()


def portable(command: Sequence[str]) -> str:
    """The command line with every absolute path cut to its last part."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)


def _tables(rows: list[Row]) -> list[str]:
    parts = []
    for (model, closed), heading in _HEADINGS.items():
        mine = [r for r in rows if r["model"] == model and r["closed"] is closed]
        if mine:
            columns = [c for c in _COLUMNS if model == "fish_tts_stream" or c[0] not in _STREAMED]
            lines = [_line([name for name, _ in columns]), "|--" * len(columns) + "|"]
            lines += [_line([cell(r) for _, cell in columns]) for r in mine if not r["error"]]
            lines += [f"\nload {r['level']:g}: {r['error']}" for r in mine if r["error"]]
            parts.append(f"## {heading}\n\n" + "\n".join(lines))
    return parts


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _three(row: Row, name: str) -> str:
    return " / ".join(f"{row[f'{name}_p{percent}']:.2f}" for percent in (50, 95, 99))


def _gaps(row: Row) -> str:
    return f"{row['gap_s_p50']:.2f} / {row['gap_s_p95']:.2f} / {row['gap_s_max']:.2f}"


def _underrun(row: Row) -> str:
    return f"{row['underrun_s']:.1f} ({row['underruns']}, {row['interrupted']})"


def _gapless(row: Row) -> str:
    """A dash for each share that a sweep of an earlier version does not have."""
    shares = [row.get(gapless(ms)) for ms in GAPS_MS]
    return " / ".join("-" if share is None else f"{100 * share:.0f}" for share in shares)


def _pictures(captions: dict[str, str]) -> str:
    return "\n\n".join(
        f"![{text}]({FOLDER}/{name}.png)\n\n{text}" for name, text in captions.items()
    )


def _cost(series: dict[str, Any]) -> str:
    rows = [
        _line([f"{c['name']}, {c['unit']}", *_span(c), f"{c['exponent']:.2f}", f"{c['bend']:.2f}"])
        for c in series["curves"]
    ]
    memory = series["memory_mib"]
    said = {
        "rows": "\n".join(rows),
        "num_rounds": len(memory),
        "rounds": ", ".join(f"{m:.0f}" for m in memory),
    }
    return _filled("cost.md", series | said)


def _span(curve: dict[str, Any]) -> list[str]:
    sizes, seconds = curve["sizes"], curve["seconds"]
    return [f"{sizes[0]:g}", f"{sizes[-1]:g}", f"{seconds[0]:.2f} to {seconds[-1]:.2f}"]
