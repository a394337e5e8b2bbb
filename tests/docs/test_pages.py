"""What the README and docs/ show is run: Python snippets, commands, options, links, the tree."""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile

from launch.server import Server

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(PROJECT.glob("docs/*.md"))]
TEXTS = {str(page.relative_to(PROJECT)): page.read_text(encoding="utf-8") for page in PAGES}


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and content of every fenced block of one language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page, block) for page, text in TEXTS.items() for block in fence.findall(text)]


def run(command: list[str], folder: Path, server: Server) -> str:
    """Run a command as a reader would, against the tests' server; its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(PROJECT / "client"),
            "VOICEREEL_URL": server.grpc_url,
            "VOICEREEL_VOICES": str(folder / "voices"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder in which the paths of the pages exist."""
    for name in ("assets", "benchmarks"):
        (tmp_path / name).symlink_to(PROJECT / name)
    return tmp_path


@pytest.mark.server
@pytest.mark.parametrize(("page", "snippet"), blocks("python"))
def test_snippets_run(server: Server, folder: Path, page: str, snippet: str) -> None:
    code = snippet.replace("127.0.0.1:8001", server.grpc_url)
    run([sys.executable, "-c", code], folder, server)
    for name in re.findall(r'(?:save\(|SoundFile\(\s*|AudioWriter\()"([^"]+)"', snippet):
        assert soundfile.info(folder / name).frames > 0
    for name in re.findall(r'save_captions\(captions, "([^"]+)"', snippet):
        assert "-->" in (folder / name).read_text()


@pytest.mark.server
def test_commands_run(server: Server, folder: Path, repository: Path) -> None:
    (folder / "play.yaml").write_text(blocks("yaml")[0][1])
    (folder / "build").mkdir()
    (folder / "build" / "repository").symlink_to(repository)
    lines = [line for _, block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("voicereel ")]
    ports = [f"--{use}-port={port}" for use, port in server.ports.items()]
    for command in commands:
        more = ports if command[0] == "doctor" else []
        run([sys.executable, "-m", "voicereel", *command, *more], folder, server)
    assert {command[0] for command in commands} >= {"voice", "script", "say", "doctor", "ready"}
    assert soundfile.info(folder / "morning.mp3").frames > 0
    captions = (folder / "reel.srt").read_text()
    assert "Alice: Good morning, Bob." in captions and captions.count("-->") == 2


needs_jq = pytest.mark.skipif(
    not (shutil.which("jq") and shutil.which("curl")), reason="needs jq and curl"
)


@needs_jq
@pytest.mark.server
@pytest.mark.parametrize(("page", "script"), blocks("bash"))
def test_shell_scripts_run(server: Server, folder: Path, page: str, script: str) -> None:
    """The pages' curl commands, and what they leave in speech.json."""
    at = server.http_url.removeprefix("http://")
    script = script.replace("localhost:8000", at).replace("python ", f"{sys.executable} ")
    run(["bash", "-e", "-o", "pipefail", "-c", script], folder, server)
    speech = json.loads((folder / "speech.json").read_text())
    assert len(speech["audio"]) > 2048 and speech["sample_rate"] == 44_100, page


def _commands(start: str) -> list[tuple[str, list[str]]]:
    """Every command of the pages that begins with `start`: the page, and its words."""
    found = re.compile(rf"(?:^|`)({start} [^`\n#|]+)", re.MULTILINE)
    return [
        (page, shlex.split(re.sub(r"[\[\]]", "", re.split(r" \(| && ", command)[0])))
        for page, text in TEXTS.items()
        for command in found.findall(text)
    ]


def test_every_make_command_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    asked = [(page, word) for page, words in _commands("make") for word in words[1:]]
    names = [(page, word) for page, word in asked if re.fullmatch(r"[a-z-]+", word)]
    assert [name for name in names if name[1] not in targets] == []
    variables = {word.partition("=")[0] for _, word in asked if "=" in word}
    assert sorted(v for v in variables if f"$({v})" not in makefile) == []


@cache
def _help(module: str, *words: str) -> str:
    """What a command prints; in this process, which has imported what most of them need."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        pytest.raises(SystemExit),
    ):
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", [module, *words, "--help"])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return said.getvalue()


@pytest.mark.slow
def test_every_python_command_takes_its_options() -> None:
    wrong = []
    for page, (_, _, module, *words) in _commands("python -m"):
        if find_spec(module) is None:
            wrong.append(f"{page}: there is no module {module}")
        options = [word for word in words if word.startswith("--")]
        subcommand = [w for w in words[:1] if re.fullmatch(r"[a-z]+(-[a-z]+)?", w)]
        if options:
            known = _help(module, *subcommand) + _help(module)
            wrong += [f"{page}: {module} has no {o}" for o in options if f"{o} " not in known]
    assert wrong == []


def test_the_tree_is_true() -> None:
    tree = TEXTS["README.md"].split("## Where things are\n```\n")[1].split("```")[0]
    names = {line.split()[0] for line in tree.splitlines()}
    assert [name for name in names if not (PROJECT / name).exists()] == []
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {path.split("/")[0] for path in tracked if "/" in path and path[0] != "."}
    assert folders == {name.split("/")[0] for name in names if "/" in name}
    assert TEXTS["README.md"].count("\n") <= 120


def test_links_lead_somewhere() -> None:
    for page, text in TEXTS.items():
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        here = (PROJECT / page).parent
        for link in links:
            path, _, anchor = link.partition("#")
            target = here / path if path else PROJECT / page
            assert target.exists(), f"{page}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in anchors, f"{page}: {link}"


def test_every_variable_is_in_the_table() -> None:
    from voicereel.settings import Settings

    fields = Settings.model_fields.values()
    assert [f.alias for f in fields if f"| `{f.alias}` |" not in TEXTS["docs/serving.md"]] == []


def test_every_option_is_in_the_protocol() -> None:
    from ensemble.contract.options import OPTIONS

    rows = TEXTS["docs/protocol.md"]
    assert [o.name for o in OPTIONS if f"| `{o.name}` | {o.dtype} |" not in rows] == []


def test_every_tritonserver_command_limits_how_long_threads_wait_awake() -> None:
    """As `make serve` does; without it a busy neighbour slows a stream several times."""
    from launch.server import _OPENMP

    commands = [
        (page, line)
        for page, text in TEXTS.items()
        for line in text.splitlines()
        if re.search(r"^(\S+=\S+ )*tritonserver --model-repository", line)
    ]
    assert commands
    wanted = [f"{name}={value}" for name, value in _OPENMP.items()]
    assert [c for c in commands if not all(w in c[1] for w in wanted)] == []
