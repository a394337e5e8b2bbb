"""Every setting of the training. What the model is is `families/fish_s1/demo.py`."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Data:
    """Attributes:
    variants: Voices of eSpeak NG that are trained on.
    unseen: One that is not: for measuring.
    pitch, speed_wpm: Each voice draws its own, from such a range.
    voices: So many draws.
    utterances_per_voice: Sentences that each of them says.
    seed: Of texts and voices.
    """

    # Those that the recogniser understands best: 0.02, 0.01, 0.12 and 0.20 of the words wrong.
    variants: tuple[str, ...] = ("en-us+f3", "en-us+m2", "en-us+f5", "en-us+m6")
    unseen: str = "en-us+f2"
    pitch: tuple[int, int] = (35, 65)
    speed_wpm: tuple[int, int] = (145, 165)
    voices: int = 1020
    utterances_per_voice: int = 20
    seed: int = 1


@dataclass(frozen=True)
class Optimiser:
    """AdamW, warm-up, cosine to a tenth.

    Attributes:
        steps: In all.
        learning_rate: At its highest.
        warmup: Steps until then.
        betas, weight_decay: Of AdamW.
        clip: Norm that the gradient is cut to.
        average: How much of the averaged weights each step keeps.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    average: float = 0.999

    def learning_rate_at(self, step: int, progress: float) -> float:
        """The schedule, by the step for the warm-up and by the share of it all that is done."""
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * cosine * min(1.0, (step + 1) / self.warmup)


@dataclass(frozen=True)
class Codec:
    """Attributes:
    encoder, decoder: Each half learns by itself, the encoder first.
    encoder_batch, decoder_batch: Segments a step.
    frames: Their length; 2048 samples each.
    mels: Window in samples -> mel bands of the spectrograms that are compared.
    floor: Amplitude below which they count as silence.
    envelope, pitch, phase: Weights of the encoder's losses; a wrong phase is hard to hear.
    waveform, logarithm, amplitude: Of the decoder's.
    """

    encoder: Optimiser = Optimiser(steps=4300, learning_rate=2e-3, betas=(0.8, 0.99))
    decoder: Optimiser = Optimiser(steps=2600, learning_rate=2e-3, betas=(0.8, 0.99))
    encoder_batch: int = 16
    decoder_batch: int = 16
    frames: int = 17
    mels: tuple[tuple[int, int], ...] = ((4096, 256), (2048, 160), (1024, 80), (512, 40), (256, 20))
    floor: float = 1e-5
    envelope: float = 3.0
    pitch: float = 1.0
    phase: float = 0.5
    waveform: float = 2.0
    logarithm: float = 10.0
    amplitude: float = 5.0


@dataclass(frozen=True)
class Llama:
    """Attributes:
    optimiser: For both transformers.
    batch: Prompts with their answers, a step.
    utterances: Of one voice in a row; each is the answer to those before it.
    corrupted: At most so many of the codes that it hears are replaced by any others.
    fast_share: Of the frames, how many the fast transformer is trained on each step.
    """

    optimiser: Optimiser = Optimiser(
        steps=4650, learning_rate=2e-3, betas=(0.9, 0.95), weight_decay=0.05
    )
    batch: int = 16
    utterances: int = 2
    corrupted: float = 0.5
    fast_share: float = 0.3


@dataclass(frozen=True)
class Settings:
    """All of them."""

    data: Data = Data()
    codec: Codec = field(default_factory=Codec)
    llama: Llama = field(default_factory=Llama)
