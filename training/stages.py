"""The stages of the training, each of which finds in the state folder what those before it left."""

import json
from pathlib import Path

import torch
from torch import nn

from export import demo
from training.codec import fitted_codec, joined, new_codec, train_half
from training.codes import Codes, make_codes
from training.features import Latents, corpus_latents
from training.llama import new_llama, train_llama
from training.loop import Deadline, Trainer
from training.settings import Settings
from training.speech import Corpus, make_corpus


def speech(settings: Settings, state: Path) -> Corpus:
    """The corpus, made once."""
    return make_corpus(settings.data, state)


def latents(settings: Settings, state: Path) -> Latents:
    """What the codec's latents shall be, of the whole corpus."""
    width: int = demo.CODEC["quantizer"]["input_dim"]
    return corpus_latents(speech(settings, state), width, state)


def codec(settings: Settings, state: Path, half: str, deadline: Deadline) -> None:
    """Train its "encoder" or its "decoder" to the last step."""
    corpus, wanted = speech(settings, state), latents(settings, state)
    train_half(half, settings.codec, corpus, wanted, state, deadline)


def codes(settings: Settings, state: Path) -> Codes:
    """The corpus in codes; the codec need not have been trained."""
    found = latents(settings, state)
    return make_codes(fitted_codec(found, state), speech(settings, state), found, state)


def llama(settings: Settings, state: Path, deadline: Deadline) -> None:
    """Train the transformers to their last step."""
    train_llama(settings.llama, codes(settings, state), state, deadline)


def weights(settings: Settings, state: Path, out: Path) -> None:
    """Write `codec.pth` and `model.pth`, averaged, in half precision."""
    hearing = Trainer("encoder", new_codec(), settings.codec.encoder, state)
    sounding = Trainer("decoder", new_codec(), settings.codec.decoder, state)
    digest = codes(settings, state).digest
    spoken = Trainer(f"llama-{digest}", new_llama(), settings.llama.optimiser, state)
    steps = ", ".join(f"{t.name}: step {t.step}" for t in (hearing, sounding, spoken))
    print(steps)
    out.mkdir(parents=True, exist_ok=True)
    codec = joined(hearing.average, sounding.average)
    for file, model in (("codec.pth", codec), ("model.pth", spoken.average)):
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
