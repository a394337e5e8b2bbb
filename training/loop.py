"""One training loop for all models: it can stop at any step, and ends the same if it does."""

import copy
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.device import DEVICE
from training.settings import Optimiser

Losses = dict[str, Tensor]
_LOG_EVERY_STEPS = 50
_SAVE_EVERY_S = 120.0 if DEVICE.type == "cpu" else 15.0  # a GPU trains for minutes, not hours


class StoppedError(RuntimeError):
    """The deadline passed or SIGTERM came; the state is saved and the same command continues."""


class Deadline:
    """When to stop: after so many minutes, or on SIGTERM, which ends every deadline.

    Attributes:
        final: Whether the training ends there, so that the learning rate follows the clock instead
            of the steps; otherwise the same command continues later.
    """

    asked = False  # whether SIGTERM came, for all deadlines of the process

    def __init__(self, minutes: float = math.inf, final: bool = False) -> None:
        self._end = time.monotonic() + 60 * minutes
        self.final = final
        signal.signal(signal.SIGTERM, self._ask)

    @staticmethod
    def _ask(*_: object) -> None:
        Deadline.asked = True

    @property
    def minutes_left(self) -> float:
        return (self._end - time.monotonic()) / 60

    def share(self, part: float) -> "Deadline":
        """A deadline after a share of the time that is left."""
        return Deadline(part * self.minutes_left)

    @property
    def over(self) -> bool:
        return self.asked or self.minutes_left < 0


class Trainer:
    """Optimiser, averaged weights, log and saved state of one model.

    Attributes:
        step: Steps taken so far.
        average: The model with exponentially averaged weights, which are the result.
    """

    def __init__(self, name: str, model: nn.Module, settings: Optimiser, folder: Path) -> None:
        self.name, self.model, self.settings = name, model.to(DEVICE), settings
        self.path, self.log = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self.step, self.seconds = 0, 0.0
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=DEVICE.type == "cuda",
        )
        self._weights: tuple[list, list] = [*model.parameters()], [*self.average.parameters()]
        self._since: list[Tensor] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            self._load()

    @property
    def done(self) -> bool:
        return self.step >= self.settings.steps

    def run(self, losses_of: Callable[[int], Losses], deadline: Deadline) -> None:
        """Train to the last step.

        Args:
            losses_of: Step -> losses, to be summed. Its randomness must come from the step or from
                torch's generator, which is seeded with the step.
            deadline: When to stop before the last step, or, if final, to end.

        Raises:
            StoppedError: If it stopped before the last step; the state is saved.
        """
        saved, minutes = time.monotonic(), deadline.minutes_left
        while deadline.final or not self.done:
            if deadline.over:
                self.save()
                if deadline.final:
                    return
                raise StoppedError(f"{self.name}: stopped at step {self.step}, state saved")
            begin = time.monotonic()
            torch.manual_seed(self.step)
            losses = losses_of(self.step)
            done = self.step / self.settings.steps
            if deadline.final:
                done = 1 - deadline.minutes_left / minutes
            self._update(losses, min(1.0, done))
            if self.step % _LOG_EVERY_STEPS == 0:
                self._write_log(["loss", *losses])
            self.seconds += time.monotonic() - begin
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        self.save()

    def _update(self, losses: Losses, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step, progress)
        self.optimiser.zero_grad(set_to_none=True)
        parts = torch.stack(list(losses.values()))
        loss = parts.sum()
        loss.backward()
        now, means = self._weights
        torch.nn.utils.clip_grad_norm_(now, self.settings.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(means, now, self.step)
        self._since.append(
            torch.cat([loss[None], parts]).detach()
        )  # not read before it is logged: reading waits for a GPU

    def _write_log(self, names: list[str]) -> None:
        values = torch.stack(self._since).mean(0).tolist()
        means = dict(zip(names, values, strict=True))
        self._since = []
        entry = {"step": self.step, "seconds": self.seconds, **means}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 5) for k, v in entry.items()}) + "\n")
        told = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(
            f"{self.name} {self.step}/{self.settings.steps} {self.seconds:.0f} s {told}", flush=True
        )

    def save(self) -> None:
        """Write all that continuing needs, to a file that is replaced in one operation."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        unfinished = self.path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self.path)

    def _load(self) -> None:
        state = torch.load(self.path, DEVICE, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
