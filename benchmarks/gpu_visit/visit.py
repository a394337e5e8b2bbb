"""What a step is told: where to write, what to measure on, and at which size."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TINY = {"s1mini": "tiny", "s2-pro": "s2-tiny"}
SHAPES = tuple(_TINY)


class Skipped(Exception):
    """A step cannot be taken here; the message says what it needs and lacks."""


@dataclass(frozen=True)
class Visit:
    """One visit.

    Attributes:
        out: Folder of the results.
        work: Folder of what is made on the way: checkpoints, repositories.
        device: `cuda` or `cpu`.
        tiny: Measure the tiny checkpoint by few and short runs: to try the visit out.
        commit: Of the code, where the checkout does not know it.
        shape: Preset of `python -m export make-checkpoint`, whose shape is measured: one of SHAPES.
    """

    out: Path
    work: Path
    device: str
    tiny: bool
    commit: str = ""
    shape: str = "s1mini"

    @property
    def preset(self) -> str:
        """What is measured: the shape, or a tiny one of its kind."""
        return _TINY[self.shape] if self.tiny else self.shape

    def to_json(self) -> str:
        """For a step's command line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Visit":
        values = json.loads(text)
        return cls(**{**values, "out": Path(values["out"]), "work": Path(values["work"])})
