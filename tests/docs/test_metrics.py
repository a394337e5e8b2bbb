"""docs/metrics.md has every metric that a real scrape finds, and no other."""

import re
from pathlib import Path

import httpx2
import pytest

from launch.server import Server
from support.gateway import running
from support.launched import wait_until
from voicereel import Client
from voicereel.library import VoiceLibrary

PROJECT = Path(__file__).resolve().parents[2]
PAGE = "docs/metrics.md"
ALICE = PROJECT / "assets" / "voices" / "alice.flac"
OPTIONAL = "Not on every machine"  # a section; sections of parts that need not run are so too
PARTS = {"proxy": "voicereel_proxy_", "launch": "voicereel_supervisor_"}  # folder: its prefix
Found = dict[str, tuple[str, frozenset[str]]]  # metric: its type, names of its labels


def documented(text: str) -> dict[str, Found]:
    """The rows of the page, by section."""
    found: dict[str, Found] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([\w, ]*)\| (.+) \|(.*)\|$", body, re.M)
        for name, kind, labels, _, _ in rows:
            assert not any(name in rows for rows in found.values()), f"{PAGE} has {name} twice"
            found.setdefault(title, {})[name] = kind, frozenset(re.findall(r"\w+", labels))
    return found


def scraped(page: str) -> Found:
    """What a page of metrics holds."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE))
    found = {}
    for name, kind in kinds.items():
        suffix = "(?:_bucket|_sum|_count)?" if kind in ("histogram", "summary") else ""
        series = re.findall(rf"^{name}{suffix}(?:{{(.*)}})? \S+$", page, re.MULTILINE)
        labels = {label for text in series for label in re.findall(r'(\w+)="', text)}
        if series:  # Triton names families that have nothing
            found[name] = kind, frozenset(labels - {"le", "quantile"})
    return found


def differences(rows: dict[str, Found], real: Found) -> list[str]:
    """One line for each difference, which says what to do."""
    every = {name: row for section in rows.values() for name, row in section.items()}
    must = {name for title, section in rows.items() if title != OPTIONAL for name in section}
    must = {name for name in must if not name.startswith(tuple(PARTS.values()))}
    lines = [
        f"{PAGE} lacks {name}: add the row "
        f"| `{name}` | {kind} | {', '.join(sorted(labels))} | ... | ... |"
        for name, (kind, labels) in real.items()
        if name not in every
    ]
    lines += [f"{PAGE} has {name}, which no scrape finds" for name in sorted(must - real.keys())]
    return lines + [
        f"{PAGE} says of {name} {every[name]}, the scrape {real[name]}"
        for name in every.keys() & real.keys()
        if every[name] != real[name]
    ]


@pytest.mark.server
def test_the_page_has_every_metric_of_server_and_gateway(server: Server, tmp_path: Path) -> None:
    with Client(server.grpc_url, timeout_s=60) as client:
        for _ in range(2):  # the second is a hit of the cache
            voice = client.encode_voice(ALICE, "Please bring me seven candles.")
    VoiceLibrary(tmp_path).add("Alice", voice)
    with running(server.grpc_url, tmp_path) as gateway:
        assert gateway.speak(voice="Alice", max_new_tokens=20).status_code == 200
        assert gateway.speak(voice="nobody").status_code == 404

        def page() -> str:
            served = httpx2.get(server.metrics_url, trust_env=False).text
            return served + gateway.http.get("/metrics").text

        wait_until(lambda: "fish_llama_steps_total" in page())
        real = scraped(page())
    rows = documented((PROJECT / PAGE).read_text("utf-8"))
    assert len(real) > 40
    problems = differences(rows, real)
    assert not problems, "\n".join(problems)


def test_what_is_missing_is_named() -> None:
    text = "## One\n| `a_total` | counter | b | means | worry |\n| `c` | gauge | | means | |\n"
    rows = documented(text)
    assert rows == {"One": {"a_total": ("counter", frozenset("b")), "c": ("gauge", frozenset())}}
    page = '# TYPE a_total counter\na_total{b="1"} 2\n'
    page += '# TYPE d histogram\nd_bucket{e="1",le="2"} 3\n'
    assert differences(rows, scraped(page)) == [
        "docs/metrics.md lacks d: add the row | `d` | histogram | e | ... | ... |",
        "docs/metrics.md has c, which no scrape finds",
    ]
    [line] = differences({"One": {"c": ("counter", frozenset())}}, {"c": ("gauge", frozenset())})
    assert line.startswith("docs/metrics.md says of c ('counter'")


def test_metrics_of_the_parts_around_the_server_are_on_the_page() -> None:
    """What the sources of proxy and supervisor name, since no server here runs behind them."""
    rows = documented((PROJECT / PAGE).read_text("utf-8"))
    known = {name for section in rows.values() for name in section}
    missing = [
        f"{PAGE} lacks {name} of {path.relative_to(PROJECT)}"
        for folder, prefix in PARTS.items()
        for path in sorted((PROJECT / folder).rglob("*.py"))
        for name in sorted(set(re.findall(rf"\b{prefix}\w*[a-z]\b", path.read_text("utf-8"))))
        if not {name, f"{name}_total"} & known
    ]
    assert not missing, "\n".join(missing)
