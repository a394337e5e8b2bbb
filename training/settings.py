"""Every setting of the training. The models' dimensions are in `families/fish_s1/demo.py`."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Data:
    """Attributes:
    variants: Voice variants of espeak-ng that are trained on.
    unseen: A variant that is not trained on, for measuring.
    pitch, speed_wpm: Ranges; each voice has a pitch and a speed drawn from them.
    voices: Number of voices.
    utterances_per_voice: Sentences of each voice.
    seed: Seed of texts and voices.
    """

    # The four with the lowest word error rates but `unseen`: 0.02, 0.12, 0.01, 0.20 (README.md).
    variants: tuple[str, ...] = ("en-us+f3", "en-us+m2", "en-us+f5", "en-us+m6")
    unseen: str = "en-us+f2"
    pitch: tuple[int, int] = (35, 65)
    speed_wpm: tuple[int, int] = (145, 165)
    voices: int = 1020
    utterances_per_voice: int = 20
    seed: int = 1


@dataclass(frozen=True)
class Optimiser:
    """AdamW with a learning rate that rises linearly and falls along a cosine to a tenth.

    Attributes:
        steps: Steps in all.
        learning_rate: The highest learning rate.
        warmup: Steps until the highest learning rate.
        betas, weight_decay: Parameters of AdamW.
        clip: Norm that the gradient is cut to.
        average: Decay of the averaged weights in each step.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    average: float = 0.999

    def learning_rate_at(self, step: int, progress: float) -> float:
        """The learning rate: the step sets the warm-up, `progress` (0 to 1) the cosine."""
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * cosine * min(1.0, (step + 1) / self.warmup)


@dataclass(frozen=True)
class Codec:
    """Attributes:
    encoder, decoder: Optimisers of the two halves, which are trained separately.
    encoder_batch, decoder_batch: Segments a step.
    frames: Frames of a segment, 2048 samples each.
    mels: Window in samples and mel bands of each spectrogram that is compared.
    floor: Amplitude that counts as silence.
    envelope, pitch, phase: Weights of the encoder's losses; a wrong phase is hard to hear.
    waveform, logarithm, amplitude: Weights of the decoder's losses.
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
    optimiser: Optimiser of both transformers.
    batch: Sequences a step.
    utterances: Utterances of a sequence, all of one voice; each answers those before it.
    corrupted: Highest share of a sequence's codes that are replaced by random ones.
    fast_share: Share of the frames that the fast transformer is trained on in each step.
    """

    optimiser: Optimiser = Optimiser(
        steps=4650, learning_rate=2e-3, betas=(0.9, 0.95), weight_decay=0.05
    )
    batch: int = 16
    utterances: int = 2
    corrupted: float = 0.5
    fast_share: float = 0.3


@dataclass(frozen=True)
class S2:
    """Attributes:
    data: The corpus; fewer voices do, since the training begins with the demo voice.
    llama: Settings of the transformers; the utterances of a sequence are drawn, see `dialogues`.
    dialogues: Share of the sequences in which two voices speak in turn.
    turns: Of a dialogue at most; more than fit into one batch would be a prompt of two parts.
    unknown: Share of the others that have no recording.
    """

    data: Data = field(default_factory=lambda: Data(voices=80))
    llama: Llama = field(
        default_factory=lambda: Llama(
            Optimiser(steps=800, learning_rate=1e-3, warmup=50, betas=(0.9, 0.95)),
            batch=12,
            corrupted=0.4,
        )
    )
    dialogues: float = 0.4
    turns: int = 3
    unknown: float = 0.1


@dataclass(frozen=True)
class Settings:
    """The settings of all parts."""

    data: Data = Data()
    codec: Codec = field(default_factory=Codec)
    llama: Llama = field(default_factory=Llama)
    s2: S2 = field(default_factory=S2)
