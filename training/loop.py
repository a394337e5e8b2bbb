"""One training loop for both models: resumable at any step, the same whether interrupted or not."""

import copy
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.settings import Optimiser

Losses = dict[str, Tensor]
_LOG_EVERY_STEPS = 10
_SAVE_EVERY_S = 120.0


class StoppedError(RuntimeError):
    """Time was up, or someone asked; the state is saved and the same command continues."""


class Deadline:
    """When to stop: after so many minutes, or on SIGTERM."""

    def __init__(self, minutes: float = math.inf) -> None:
        self._end = time.monotonic() + 60 * minutes
        signal.signal(signal.SIGTERM, self._now)

    def _now(self, *_: object) -> None:
        self._end = 0.0

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end


class Trainer:
    """Optimiser, averaged weights, log and saved state of one model.

    Attributes:
        step: Steps taken.
        average: The model with exponentially averaged weights: what is kept in the end.
    """

    def __init__(self, name: str, model: nn.Module, settings: Optimiser, folder: Path) -> None:
        self.name, self.model, self.settings = name, model, settings
        self.path, self.log = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self.step, self.seconds = 0, 0.0
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self._since: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            self._load()

    @property
    def done(self) -> bool:
        return self.step >= self.settings.steps

    def run(self, losses_of: Callable[[int], Losses], deadline: Deadline) -> None:
        """Train to the last step.

        Args:
            losses_of: Step -> losses, to be summed. All chance in it must come from the step and
                from torch's generator, which is seeded with it.
            deadline: When to stop before.

        Raises:
            StoppedError: If it stopped before the last step.
        """
        saved = time.monotonic()
        while not self.done:
            if deadline.over:
                self.save()
                raise StoppedError(f"{self.name}: stopped at step {self.step}, state saved")
            begin = time.monotonic()
            torch.manual_seed(self.step)
            self._update(losses_of(self.step))
            self.seconds += time.monotonic() - begin
            if self.step % _LOG_EVERY_STEPS == 0:
                self._write_log()
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        self.save()

    def _update(self, losses: Losses) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        for name, value in {"loss": loss, **losses}.items():
            self._since[name] = self._since.get(name, 0.0) + float(value.detach())

    def _write_log(self) -> None:
        means = {name: value / _LOG_EVERY_STEPS for name, value in self._since.items()}
        self._since = {}
        entry = {"step": self.step, "seconds": self.seconds, **means}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 5) for k, v in entry.items()}) + "\n")
        told = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(
            f"{self.name} {self.step}/{self.settings.steps} {self.seconds:.0f} s {told}", flush=True
        )

    def save(self) -> None:
        """Write everything that continuing needs: all of it, or nothing."""
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
        state = torch.load(self.path, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
