"""The stages of the training; each reads from the state folder what the earlier ones wrote."""

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
from training.s2 import train_s2
from training.settings import Settings
from training.speech import Corpus, make_corpus


@cache
def speech(settings: Settings, state: Path) -> Corpus:
    """The corpus, spoken once."""
    return make_corpus(settings.data, state)


@cache
def latents(settings: Settings, state: Path) -> Latents:
    """Target latents of the codec for the whole corpus."""
    width: int = demo.CODEC["quantizer"]["input_dim"]
    return corpus_latents(speech(settings, state), width, state)


def codec(settings: Settings, state: Path, half: str, deadline: Deadline) -> None:
    """Train the codec's "encoder" or "decoder" to the last step."""
    corpus, wanted = speech(settings, state), latents(settings, state)
    train_half(half, settings.codec, corpus, wanted, state, deadline)


@cache
def codes(settings: Settings, state: Path) -> Codes:
    """The corpus in codes; that needs the codebooks, but no trained codec."""
    found = latents(settings, state)
    return make_codes(fitted_codec(found, state), speech(settings, state), found, state)


def llama(settings: Settings, state: Path, deadline: Deadline) -> None:
    """Train the transformers to their last step."""
    train_llama(settings.llama, codes(settings, state), state, deadline)


def s2(settings: Settings, state: Path, out: Path, deadline: Deadline) -> None:
    """Train the demo voice on in S2's format, and write its transformers at the end.

    Raises:
        StoppedError: If it stopped before its last step; the state is saved.
    """
    trainer = train_s2(settings.s2, state, deadline)
    out.mkdir(parents=True, exist_ok=True)
    save_llama(trainer.average, out)


def weights(settings: Settings, state: Path, out: Path) -> None:
    """Write the averaged weights: `codec.pth` in half precision, `model.pth` packed.

    Raises:
        StoppedError: If a model has no step yet, and so was not written.
    """
    encoder = Trainer("encoder", new_codec(), settings.codec.encoder, state)
    decoder = Trainer("decoder", new_codec(), settings.codec.decoder, state)
    digest = codes(settings, state).digest
    transformers = Trainer(f"llama-{digest}", new_llama(), settings.llama.optimiser, state)
    trainers = (encoder, decoder, transformers)
    steps = ", ".join(f"{t.name}: step {t.step} of {t.settings.steps}" for t in trainers)
    print(steps, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    if encoder.step and decoder.step:
        save_codec(joined(encoder.average, decoder.average), out)
    if transformers.step:
        save_llama(transformers.average, out)
    if not all(t.step for t in trainers):
        raise StoppedError(f"weights: not all of them can be written yet: {steps}")


def save_codec(codec: nn.Module, out: Path) -> None:
    """Write the codec's parameters, without the tables that upstream keeps beside them."""
    halves = {name: p.detach().half().cpu() for name, p in codec.named_parameters()}
    torch.save(halves, out / "codec.pth")


def save_llama(llama: nn.Module, out: Path) -> None:
    """Write the transformers' parameters, packed."""
    parameters = {name: p.detach().cpu() for name, p in llama.named_parameters()}
    torch.save(packed(parameters), out / "model.pth")


def everything(settings: Settings, state: Path, out: Path, deadline: Deadline) -> None:
    """Run all stages; with a final deadline codec and transformers are trained side by side.

    Raises:
        StoppedError: If a training stopped before its last step, or failed. The weights are
            written all the same.
    """
    codes(settings, state)  # here, because every process needs it
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
    """Train each model in a process of its own, to the deadline; returns those that failed."""
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
                    process.terminate()  # the process saves its state and ends
            time.sleep(1.0)
    return [
        StoppedError(f"{name}: failed, see above")
        for name, process in zip(names, started, strict=True)
        if process.returncode
    ]


def curves(state: Path, out: Path) -> None:
    """Draw every log of the state folder into `out/curves.png`."""
    from matplotlib.figure import Figure  # without pyplot it needs no display and no backend

    logs = sorted(state.glob("*.jsonl"))
    if not logs:
        return
    figure = Figure(figsize=(8, 3 * len(logs)), layout="tight")
    axes = figure.subplots(len(logs), squeeze=False)
    for axis, log in zip(axes[:, 0], logs, strict=True):
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for name in entries[-1].keys() - {"step", "seconds", "loss"}:
            steps, values = zip(*((e["step"], e[name]) for e in entries if name in e), strict=True)
            axis.plot(steps, values, label=name)
        hours = entries[-1]["seconds"] / 3600
        axis.set(title=f"{log.stem}, {hours:.1f} h", xlabel="step", yscale="log")
        axis.legend()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "curves.png", dpi=100)
