"""`python -m export COMMAND`: makes checkpoints, and exports them into a model repository."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

_NOT_WRITTEN = "failed writing file"  # torch says so of a full disk, in a RuntimeError
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
)


@app.command()
def make_checkpoint(
    name: Annotated[
        str,
        typer.Argument(help="demo, tiny, ..., s1mini (3.3 GB), s2-demo, s2-tiny, s2-pro (11 GB)"),
    ],
    out: Annotated[Path, typer.Option(help="Folder to make")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights")] = 0,
    force: Annotated[bool, typer.Option(help="Replace a folder that holds something")] = False,
    endless: Annotated[
        bool, typer.Option(help="Speech that only max_new_tokens ends: for benchmarks")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of trained weights [demo: assets/demo]")
    ] = None,
) -> None:
    """Write a checkpoint that the genuine upstream loaders accept, of random weights but for demo.

    demo is trained (`python -m training`).
    """
    from families.registry import CheckpointError, family_with_preset

    try:
        family_with_preset(name).make_checkpoint(name, out, seed, force, endless, weights)
    except CheckpointError as error:
        raise SystemExit(str(error)) from None


@app.command()
def run(
    checkpoint: Annotated[Path, typer.Argument(help="Fish-Speech checkpoint folder")],
    repository: Annotated[Path, typer.Option(help="Model repository")] = Path("model_repository"),
    full_vocabulary: Annotated[
        bool, typer.Option(help="Parity: sample as fish-speech 0.1.0 does, oddities and all")
    ] = False,
    compile: Annotated[
        bool | None,
        typer.Option(help="Also the codec for this CPU [default: FISH_SPEECH_COMPILE]"),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(help="Also the decoder in 8 bits, for FISH_SPEECH_PRECISION=int8"),
    ] = False,
    onnx_llama: Annotated[
        bool,
        typer.Option(help="Also the language model as ONNX (S1-mini: 2.7 GB)"),
    ] = False,
) -> None:
    """Export a checkpoint into a servable repository, every artefact compared with upstream."""
    from rich.console import Console

    from ensemble.contract.settings import server_settings
    from families.registry import CheckpointError

    console = Console(stderr=True)
    try:
        kernels = server_settings().use_kernels if compile is None else compile
    except ValueError as error:  # the variable's value
        raise SystemExit(f"export: {error}") from None
    try:
        from export.run import Asked, ParityError, export_checkpoint, tables  # torch wants a disk

        asked = Asked(full_vocabulary, kernels, int8, onnx_llama)
        try:
            result = export_checkpoint(checkpoint, repository, console, asked)
        except (CheckpointError, ParityError) as error:
            raise SystemExit(str(error)) from None
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) or _NOT_WRITTEN in str(error):
            raise SystemExit(_no_room(error)) from None
        raise
    for table in tables(result):
        console.print(table)
    console.print(
        f"[green]{repository} is ready: make serve REPOSITORY={shlex.quote(str(repository))}"
    )


def _no_room(error: OSError | RuntimeError) -> str:
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    why = (isinstance(error, OSError) and error.strerror) or error
    return (
        f"export: {where}{why}. Make room, or name other folders: REPOSITORY=DIR, and TMPDIR=DIR "
        "for temporary files"
    )


if __name__ == "__main__":
    app()
