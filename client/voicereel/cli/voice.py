"""`voicereel voice`: encode recordings, and keep voices by name."""

from collections.abc import Iterator
from functools import reduce
from operator import add as join
from pathlib import Path
from typing import Annotated, Any

import soundfile
import typer
from rich.console import Console
from rich.table import Table

from voicereel.audio import CODEC_SAMPLE_RATE_HZ
from voicereel.cli.options import Json, Timeout, Url, Via
from voicereel.cli.session import connected, library, print_result, print_warnings, reported
from voicereel.cli.texts import check_is_no_file
from voicereel.client import Client
from voicereel.errors import InvalidRequest
from voicereel.library import VoiceLibrary
from voicereel.places import check_different, check_place, save_somewhere
from voicereel.rate import rate_warning
from voicereel.text import require_words
from voicereel.utterance import SpeechFacts
from voicereel.voice import VoiceFeatures

app = typer.Typer(help="Voices, encoded once and used for many texts.", no_args_is_help=True)

Recordings = Annotated[list[Path], typer.Argument(help="Recordings of the voice, 5 to 30 s each.")]
Words = Annotated[list[str], typer.Option(help="The words spoken; once for each recording.")]
# Strides of S1-mini's encoder x downsampling of its quantizer; shows frames as seconds.
SAMPLES_PER_FRAME = 2 * 4 * 8 * 8 * 4
_NOTICED_CUT_S = 0.2  # the server cuts more than this, or nothing


@app.command()
def encode(
    recordings: Recordings,
    text: Words,
    output: Annotated[Path, typer.Option("-o", "--output", help="The voice file, .npz")],
    url: Url = None,
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Encode recordings into a voice file, which `say --voice` takes."""
    with connected(url, protocol, timeout) as client:
        if output.suffix.lower() != ".npz":
            raise InvalidRequest(f"cannot write {output}: expected a name in .npz")
        check_different([output], recordings)
        check_place(output)
        voice = _encoded(client, recordings, text)
        if problem := save_somewhere(voice.save, output):
            raise InvalidRequest(problem)
    _print(output, voice, as_json)


@app.command()
def add(
    name: Annotated[
        str, typer.Argument(help="Name of the voice, for example that of a speaker in a script.")
    ],
    recordings: Recordings,
    text: Words,
    force: Annotated[bool, typer.Option("--force", help="Replace a voice of this name.")] = False,
    url: Url = None,
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Encode recordings and keep the voice by name, in the folder VOICEREEL_VOICES."""
    with connected(url, protocol, timeout) as client:
        kept = library()
        kept.place_for(name, replace=force)  # fails before the recordings are encoded
        voice = _encoded(client, recordings, text)
        path = kept.path_of(name)
        if problem := save_somewhere(lambda place: _keep(kept, name, voice, place, force), path):
            raise InvalidRequest(problem)
    _print(path, voice, as_json)


@app.command("list")
def list_voices(as_json: Json = False) -> None:
    """Show the voices that are kept."""
    with reported():
        kept = library()
        found = [_described(kept.path_of(name)) for name in kept.names()]
    if as_json:
        print_result(found)
        return
    if not found:
        print_result(f"no voices in {kept.folder}; voicereel voice add NAME RECORDING --text WORDS")
        return
    table = Table("voice", "recordings", "seconds", "checkpoint", title=str(kept.folder))
    for voice in found:
        name = Path(voice["file"]).stem
        if "error" in voice:
            table.add_row(name, "damaged")
        else:
            seconds = f"{voice['seconds']:.1f}"
            table.add_row(name, str(voice["recordings"]), seconds, voice["checkpoint_id"])
    Console().print(table)


@app.command()
def show(
    voice: Annotated[str, typer.Argument(help="Its name, or its .npz file.")], as_json: Json = False
) -> None:
    """Show which recordings and which checkpoint a voice was made from."""
    with reported():
        path = library().find(voice)
        VoiceFeatures.load(path)
    found = _described(path)
    if as_json:
        print_result(found)
    else:
        print_result("\n".join(f"{name}: {value}" for name, value in found.items()))


def _encoded(client: Client, recordings: list[Path], texts: list[str]) -> VoiceFeatures:
    if len(recordings) != len(texts):
        raise InvalidRequest(
            f"{len(recordings)} recordings and {len(texts)} texts, expected --text for each "
            "recording: the words spoken in it"
        )
    for number, words in enumerate(texts, start=1):
        check_is_no_file(words, '--text "$(cat {})"')
        require_words(words, f"--text {number}" if len(texts) > 1 else "--text")
    voices = [client.encode_voice(*pair) for pair in zip(recordings, texts, strict=True)]
    for path, voice in zip(recordings, voices, strict=True):
        print_warnings(list(_noticed(path, voice)))
    return reduce(join, voices)


def _noticed(path: Path, voice: VoiceFeatures) -> Iterator[str]:
    """What the server cut from a recording, and words that do not fit its length."""
    seconds = voice.codes.shape[1] * SAMPLES_PER_FRAME / CODEC_SAMPLE_RATE_HZ
    cut = soundfile.info(path).duration - seconds
    if cut > _NOTICED_CUT_S:
        yield f"{path}: {cut:.1f} s of silence around the voice were cut"
    if wrong := rate_warning(voice.texts[0], seconds, SpeechFacts.letters_per_s):
        yield f"{path} lasts {seconds:.1f} s: are these the words spoken in it? {wrong}"


def _keep(kept: VoiceLibrary, name: str, voice: VoiceFeatures, place: Path, force: bool) -> None:
    """Add a voice to the library; where that fails, `save_somewhere` names another place."""
    if place.parent == kept.folder:
        kept.add(name, voice, replace=force)
    else:
        voice.save(place)


def _described(path: Path) -> dict[str, Any]:
    """The facts of a voice file, or why it cannot be read."""
    try:
        voice = VoiceFeatures.load(path)
    except InvalidRequest as error:
        return {"file": str(path), "error": str(error)}
    codebooks, frames = voice.codes.shape
    return {
        "file": str(path),
        "recordings": len(voice.frames),
        "seconds": frames * SAMPLES_PER_FRAME / CODEC_SAMPLE_RATE_HZ,
        "codebooks": codebooks,
        "frames": frames,
        "texts": list(voice.texts),
        "checkpoint_id": voice.checkpoint_id,
        "sha256": voice.sha256,
    }


def _print(path: Path, voice: VoiceFeatures, as_json: bool) -> None:
    codebooks, frames = voice.codes.shape
    print_result(
        _described(path) if as_json else f"{path}: {codebooks} codebooks x {frames} frames"
    )
