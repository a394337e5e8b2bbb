"""`python -m training COMMAND`: the demo voice, from nothing to `assets/demo`.

Every command goes on where it was interrupted; `all` runs the whole training.
"""

from pathlib import Path
from typing import Annotated

import typer

from families.fish_s1.demo import WEIGHTS
from families.fish_s2.presets import WEIGHTS as S2_WEIGHTS
from training import stages
from training.loop import Deadline, StoppedError
from training.settings import Settings
from training.speech import EspeakMissingError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)
STATE = Path("checkpoints/demo-training")  # not in build/, which `make clean` removes
StateOption = Annotated[Path, typer.Option("--state", help="Where everything is kept")]
MinutesOption = Annotated[
    float, typer.Option("--minutes", help="Stop after so many, to be continued")
]
WithinOption = Annotated[
    float,
    typer.Option("--within", help="End after so many minutes: the learning rate follows the clock"),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for the weights")]


@app.command()
def speech(state: StateOption = STATE) -> None:
    """Let espeak-ng speak the corpus."""
    stages.speech(Settings(), state)


@app.command()
def encoder(
    state: StateOption = STATE, minutes: MinutesOption = 1e9, within: WithinOption = 0.0
) -> None:
    """Train the codec's encoder."""
    stages.codec(Settings(), state, "encoder", _deadline(minutes, within))


@app.command()
def decoder(
    state: StateOption = STATE, minutes: MinutesOption = 1e9, within: WithinOption = 0.0
) -> None:
    """Train the codec's decoder, after the encoder."""
    stages.codec(Settings(), state, "decoder", _deadline(minutes, within))


@app.command()
def llama(
    state: StateOption = STATE, minutes: MinutesOption = 1e9, within: WithinOption = 0.0
) -> None:
    """Train the transformers."""
    stages.llama(Settings(), state, _deadline(minutes, within))


@app.command()
def s2(
    state: StateOption = Path("checkpoints/demo-s2-training"),
    minutes: MinutesOption = 1e9,
    within: WithinOption = 0.0,
    out: OutOption = S2_WEIGHTS,
) -> None:
    """Train the demo voice on in S2's format, to assets/demo-s2."""
    stages.s2(Settings(), state, out, _deadline(minutes, within))


@app.command()
def weights(state: StateOption = STATE, out: OutOption = WEIGHTS) -> None:
    """Write the weights that have been learnt so far."""
    stages.weights(Settings(), state, out)


@app.command()
def curves(state: StateOption = STATE, out: OutOption = Path("out")) -> None:
    """Draw the learning curves."""
    stages.curves(state, out)


@app.command("all")
def everything(
    state: StateOption = STATE,
    minutes: MinutesOption = 1e9,
    within: WithinOption = 0.0,
    out: OutOption = WEIGHTS,
) -> None:
    """Speech, encoder, decoder, transformers, weights, curves."""
    stages.everything(Settings(), state, out, _deadline(minutes, within))


def _deadline(minutes: float, within: float) -> Deadline:
    return Deadline(within, final=True) if within else Deadline(minutes)


if __name__ == "__main__":
    try:
        app()
    except (StoppedError, EspeakMissingError) as stopped:
        raise SystemExit(f"training: {stopped}") from None
