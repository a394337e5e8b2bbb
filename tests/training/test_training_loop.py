"""The training loop: stopped at any step it ends the same, and a final deadline is the end."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from training import settings
from training.device import DEVICE
from training.loop import Deadline, StoppedError, Trainer

OPTIMISER = settings.Optimiser(steps=6, learning_rate=1e-2, warmup=2)


def losses(model):
    return lambda step: {"square": (model(torch.randn(4, 3, device=DEVICE)) - step).square().mean()}


def trained(folder, stops: tuple[int, ...]):
    """A trainer that was stopped after each of these numbers of steps, and continued."""
    for stop in (*stops, OPTIMISER.steps):
        torch.manual_seed(99)
        trainer = Trainer("model", torch.nn.Linear(3, 1), OPTIMISER, folder)
        deadline = Deadline()
        type(deadline).over = property(lambda self, t=trainer, s=stop: t.step >= s)
        if stop < OPTIMISER.steps:
            with pytest.raises(StoppedError, match=f"stopped at step {stop}"):
                trainer.run(losses(trainer.model), deadline)
        else:
            trainer.run(losses(trainer.model), deadline)
    return trainer


def test_interrupted_training_ends_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Deadline, "over", False)
    whole, parts = trained(tmp_path / "whole", ()), trained(tmp_path / "parts", (1, 4))
    for module in ("model", "average"):
        pairs = zip(
            getattr(whole, module).parameters(), getattr(parts, module).parameters(), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)
    assert parts.done and not list((tmp_path / "parts").glob("*.part"))


@pytest.mark.slow
def test_a_final_deadline_is_the_end(tmp_path) -> None:
    """The learning rate has fallen by then, however many steps that is."""
    wanted = replace(OPTIMISER, steps=10**9, warmup=1)
    trainer = Trainer("model", torch.nn.Linear(3, 1), wanted, tmp_path)
    trainer.run(losses(trainer.model), Deadline(0.5 / 60, final=True))
    assert trainer.step > 1 and (tmp_path / "model.pt").is_file()
    (group,) = trainer.optimiser.param_groups
    assert group["lr"] == pytest.approx(0.1 * wanted.learning_rate, rel=0.3)
