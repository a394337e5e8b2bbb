"""The stages of the training, each of which finds in the state folder what those before it left."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import torch
from torch import nn

from families.fish_s1 import demo
from families.fish_s1.weights import packed
from training.codec import fitted_codec, joined, new_codec, train_half
from training.codes import Codes, make_codes
from training.features import Latents, corpus_latents
from training.llama import new_llama, train_llama
from training.loop import Deadline, StoppedError, Trainer
from training.settings import Settings
from training.speech import Corpus, make_corpus


@cache
def speech(settings: Settings, state: Path) -> Corpus:
    """The corpus, made once."""
    return make_corpus(settings.data, state)


@cache
def latents(settings: Settings, state: Path) -> Latents:
    """What the codec's latents shall be, of the whole corpus."""
    width: int = demo.CODEC["quantizer"]["input_dim"]
    return corpus_latents(speech(settings, state), width, state)


def codec(settings: Settings, state: Path, half: str, deadline: Deadline) -> None:
    """Train its "encoder" or its "decoder" to the last step."""
    corpus, wanted = speech(settings, state), latents(settings, state)
    train_half(half, settings.codec, corpus, wanted, state, deadline)


@cache
def codes(settings: Settings, state: Path) -> Codes:
    """The corpus in codes; the codec need not have been trained."""
    found = latents(settings, state)
    return make_codes(fitted_codec(found, state), speech(settings, state), found, state)


def llama(settings: Settings, state: Path, deadline: Deadline) -> None:
    """Train the transformers to their last step."""
    train_llama(settings.llama, codes(settings, state), state, deadline)


def weights(settings: Settings, state: Path, out: Path) -> None:
    """Write what was learnt so far, averaged: `codec.pth` in half precision, `model.pth` packed.

    Raises:
        StoppedError: If one of them has not learnt anything yet, and so was not written.
    """
    hearing = Trainer("encoder", new_codec(), settings.codec.encoder, state)
    sounding = Trainer("decoder", new_codec(), settings.codec.decoder, state)
    digest = codes(settings, state).digest
    spoken = Trainer(f"llama-{digest}", new_llama(), settings.llama.optimiser, state)
    trainers = (hearing, sounding, spoken)
    steps = ", ".join(f"{t.name}: step {t.step} of {t.settings.steps}" for t in trainers)
    print(steps, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    if hearing.step and sounding.step:
        save_codec(joined(hearing.average, sounding.average), out)
    if spoken.step:
        save_llama(spoken.average, out)
    if not all(t.step for t in trainers):
        raise StoppedError(f"weights: not all of them can be written yet: {steps}")


def save_codec(codec: nn.Module, out: Path) -> None:
    """The parameters, without the tables that upstream keeps among them."""
    halves = {name: p.detach().half().cpu() for name, p in codec.named_parameters()}
    torch.save(halves, out / "codec.pth")


def save_llama(llama: nn.Module, out: Path) -> None:
    """The parameters, packed."""
    parameters = {name: p.detach().cpu() for name, p in llama.named_parameters()}
    torch.save(packed(parameters), out / "model.pth")


def everything(settings: Settings, state: Path, out: Path, deadline: Deadline) -> None:
    """All stages; codec and transformers side by side for a final deadline.

    Raises:
        StoppedError: If another came first, or one of them failed. The weights are written all the
            same.
    """
    codes(settings, state)  # all that is needed by more than one process
    stopped: list[StoppedError] = []
    if deadline.final:
        stopped += side_by_side(state, deadline)
    else:
        trainings = (
            lambda: codec(settings, state, "encoder", deadline.share(0.35)),
            lambda: codec(settings, state, "decoder", deadline.share(0.6)),
            lambda: llama(settings, state, deadline),
        )
        for training in trainings:
            try:
                training()
            except StoppedError as error:
                stopped.append(error)
    weights(settings, state, out)
    curves(state, out)
    if stopped:
        raise StoppedError("; ".join(map(str, stopped)))


def side_by_side(state: Path, deadline: Deadline) -> list[StoppedError]:
    """Each in a process of its own, to the deadline; those that failed leave what they have."""
    options = ("--state", str(state), "--within", str(deadline.minutes_left))
    names = ("encoder", "decoder", "llama")
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen([sys.executable, "-m", "training", n, *options]))
            for n in names
        ]
        asked = False
        while any(process.poll() is None for process in started):
            if deadline.asked and not asked:
                asked = True
                for process in started:
                    process.terminate()  # it saves its state
            time.sleep(1.0)
    return [
        StoppedError(f"{name}: failed, see above")
        for name, process in zip(names, started, strict=True)
        if process.returncode
    ]


def curves(state: Path, out: Path) -> None:
    """Draw every log of the state folder into `out/curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = sorted(state.glob("*.jsonl"))
    if not logs:
        return
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
