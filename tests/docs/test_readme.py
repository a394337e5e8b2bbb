"""What the README shows is run: every Python snippet, every command of `voicereel`, every path."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from launch.server import Server

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def run(command: list[str], folder: Path, server: Server) -> str:
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
    (tmp_path / "assets").symlink_to(PROJECT / "assets")
    return tmp_path


@pytest.mark.server
@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets_run(server: Server, folder: Path, snippet: str) -> None:
    code = snippet.replace("127.0.0.1:8001", server.grpc_url)
    run([sys.executable, "-c", code], folder, server)
    for name in re.findall(r'save\("([^"]+)"\)', snippet):
        assert soundfile.info(folder / name).frames > 0
    for name in re.findall(r'save_captions\(captions, "([^"]+)"', snippet):
        assert "-->" in (folder / name).read_text()


@pytest.mark.server
def test_commands_run(server: Server, folder: Path, repository: Path) -> None:
    (folder / "play.yaml").write_text(blocks("yaml")[0])
    (folder / "build").mkdir()
    (folder / "build" / "repository").symlink_to(repository)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("voicereel ")]
    ports = [f"--{use}-port={port}" for use, port in server.ports.items()]
    for command in commands:
        more = ports if command[0] == "doctor" else []
        run([sys.executable, "-m", "voicereel", *command, *more], folder, server)
    assert {command[0] for command in commands} >= {"voice", "script", "say", "doctor", "ready"}
    assert soundfile.info(folder / "night.mp3").frames > 0
    captions = (folder / "reel.srt").read_text()
    assert "Alice: Good morning, Bob." in captions and captions.count("-->") == 2


def test_the_tree_is_true() -> None:
    tree = README.split("## Where things are\n```\n")[1].split("```")[0]
    names = [line.split()[0] for line in tree.splitlines()]
    assert [name for name in names if not (PROJECT / name).exists()] == []


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (PROJECT / link).exists()] == []
    assert len(links) > 3


def test_every_variable_is_in_the_table() -> None:
    from voicereel.settings import Settings

    fields = Settings.model_fields.values()
    assert [f.alias for f in fields if f"| `{f.alias}` |" not in README] == []
