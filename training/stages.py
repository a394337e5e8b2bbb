"""The stages of the training, each of which finds in the state folder what those before it left."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.codec import encoding_parts, new_codec, train_codec
from training.codes import digest_of, make_codes
from training.llama import new_llama, train_llama
from training.loop import Deadline, Trainer
from training.settings import Settings
from training.speech import Corpus, make_corpus


class TooEarlyError(RuntimeError):
    """A stage needs more of an earlier one."""


def speech(settings: Settings, state: Path) -> Corpus:
    """The corpus, made once."""
    return make_corpus(settings.data, state)


def codec(settings: Settings, state: Path, deadline: Deadline) -> None:
    """Train the codec to its last step."""
    train_codec(settings.codec, speech(settings, state), state, deadline)


def llama(settings: Settings, state: Path, deadline: Deadline) -> None:
    """Train the transformers to their last step; the decoder may still be learning."""
    trained = Trainer("codec", new_codec(), settings.codec.optimiser, state)
    if trained.step <= settings.codec.codes_fixed_after:
        raise TooEarlyError(
            f"llama: the codec has taken {trained.step} steps, its codes are fixed after "
            f"{settings.codec.codes_fixed_after}. First: python -m training codec"
        )
    average: Any = trained.average
    digest = digest_of(encoding_parts(average))
    codes = make_codes(average, digest, speech(settings, state), state, deadline)
    train_llama(settings.llama, codes, state, deadline)


def weights(settings: Settings, state: Path, out: Path) -> None:
    """Write `codec.pth` and `model.pth`, averaged, in half precision."""
    trained = Trainer("codec", new_codec(), settings.codec.optimiser, state)
    digest = digest_of(encoding_parts(trained.average))
    spoken = Trainer(f"llama-{digest}", new_llama(), settings.llama.optimiser, state)
    print(f"codec: step {trained.step}, transformers: step {spoken.step}")
    out.mkdir(parents=True, exist_ok=True)
    for file, model in (("codec.pth", trained.average), ("model.pth", spoken.average)):
        save_half(model, out / file)


def save_half(model: nn.Module, path: Path) -> None:
    """The parameters, without the tables that upstream keeps among a codec's."""
    torch.save({name: p.detach().half() for name, p in model.named_parameters()}, path)


def curves(state: Path, out: Path) -> None:
    """Draw every log of the state folder into `out/curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = sorted(state.glob("*.jsonl"))
    figure, axes = pyplot.subplots(len(logs), figsize=(8, 3 * len(logs)), squeeze=False)
    for axis, log in zip(axes[:, 0], logs, strict=True):
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for name in entries[-1].keys() - {"step", "seconds", "loss"}:
            steps, values = zip(*((e["step"], e[name]) for e in entries if name in e), strict=True)
            axis.plot(steps, values, label=name)
        hours = entries[-1]["seconds"] / 3600
        axis.set(title=f"{log.stem}, {hours:.1f} h", xlabel="step", yscale="log")
        axis.legend()
    figure.tight_layout()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "curves.png", dpi=100)
