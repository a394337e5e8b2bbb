"""`make up`: the demo voice served, its two speakers, and the gateway with its page in front.

Everything is made when missing or outdated; Ctrl-C ends both.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from benchmarks.demo.run import SCRIPT, encoded, say_if_slow
from benchmarks.prepared import ROOT, prepared, served
from benchmarks.report import console
from launch.server import LaunchError
from voicereel import VoiceReelError
from voicereel.library import VoiceLibrary
from voicereel.project import project_environment

OUT = ROOT / "build" / "up"
# OpenAI's voices, which some apps cannot leave, are Alice and Bob in turns.
ALIASES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx",
           "sage", "shimmer", "verse")  # fmt: skip
MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")


def main(
    port: Annotated[int, typer.Option(help="Port of the gateway; 0: any free one.")] = 8080,
) -> None:
    """Serve until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # which ends both servers
    try:
        _, repository = prepared("demo", "demo")
        with console.status("serving") as status, served(repository) as (server, client):
            library = VoiceLibrary(OUT / "voices")
            for name, voice in encoded(client).items():
                library.add(name, voice, replace=True)
            status.stop()
            say_if_slow("make up")
            _gateway(server.grpc_url, port)
    except (LaunchError, VoiceReelError, subprocess.CalledProcessError) as error:
        console.print(f"[red]up:[/red] {error}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)


def aliases(path: Path) -> Path:
    """Write the aliases of the demo's two voices."""
    voices = {alias: ("Alice", "Bob")[index % 2] for index, alias in enumerate(ALIASES)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"voices": voices, "models": list(MODELS)}), encoding="utf-8")
    return path


def _gateway(server: str, port: int) -> None:
    """Run the gateway until it ends, and say how it is reached."""
    environment = project_environment(ROOT) | {"VOICEREEL_GATEWAY_VOICES": str(OUT / "voices")}
    environment["PYTHONPATH"] += f":{ROOT / 'client'}"
    command = [sys.executable, "-m", "gateway", "--port", str(port), "--server", server,
               "--aliases", str(aliases(OUT / "aliases.yaml"))]  # fmt: skip
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("ready: "):
            sys.exit(process.wait() or 1)  # it has said why
        url = line.removeprefix("ready: ").strip()
        print(f"page:  {url.removesuffix('/v1')}/")
        print(f"apps:  base URL {url}, any key; voices Alice and Bob")
        body = f'{{"model": "tts-1", "voice": "Alice", "input": "{SCRIPT[0][1]}", "seed": 3}}'
        print(f"curl:  curl -d '{body}' -o morning.mp3 {url}/audio/speech", flush=True)
        process.wait()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    typer.run(main)
