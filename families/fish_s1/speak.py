"""Runs upstream's own code from end to end in this process: recording to codes, text to speech.

It is VoiceReel's regular engine, and the reference for the served models. It behaves as upstream
does: one request at a time, attention over all positions of the cache, one call of the codec for
the whole speech, and control tokens inside a text are obeyed.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.lm.placement import placement_for
from ensemble.contract.facts import max_prompt_length
from ensemble.contract.options import Sampling, sampling_from
from ensemble.contract.recording import conditioned
from ensemble.contract.settings import server_settings
from ensemble.contract.text import prompt_text
from families.fish_s1.checkpoint import load_checkpoint, load_codec, load_llama
from families.fish_s1.upstream import decode_one_token_ar, generate_long
from families.registry import CheckpointError
from families.speech import speech_facts

__all__ = ["CheckpointError", "UpstreamSpeaker"]

_LOWEST = 1e-5  # upstream asserts temperature and top_p above 0, and clamps temperature to this


class UpstreamSpeaker:
    """Upstream with one checkpoint in memory.

    Attributes:
        checkpoint_id: The checkpoint's id, as in `Checkpoint`.
        sample_rate_hz: Sample rate of the audio that it takes and gives.
        speech: How the checkpoint speaks, see `families.speech`.
    """

    def __init__(self, folder: Path) -> None:
        """Load a checkpoint; FISH_SPEECH_DEVICE and _PRECISION are read, the codec stays float32.

        Raises:
            CheckpointError: If the folder is no usable checkpoint.
            ValueError: If a variable is wrong.
        """
        checkpoint, placement = load_checkpoint(folder), placement_for(server_settings())
        self._device = placement.device
        self._llama = load_llama(checkpoint, placement.dtype).to(placement.device)
        self._codec = load_codec(checkpoint).to(placement.device)
        self.checkpoint_id, self.speech = checkpoint.checkpoint_id, speech_facts(folder)
        self.sample_rate_hz = int(self._codec.sample_rate)
        frames = min(
            int(self._codec.quantizer.pre_module.config.block_size),
            max_prompt_length(int(self._llama.config.max_seq_len)),
        )
        self._limit_s = frames * int(self._codec.frame_length) / self.sample_rate_hz

    @torch.inference_mode()
    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Encode a recording: float32 (samples,), mono, -> int64 (codebooks, frames).

        Raises:
            ValueError: If it is longer than upstream's tables, or than a prompt may be, or holds no
                voice.
        """
        if len(waveform) > self._limit_s * self.sample_rate_hz:
            raise ValueError(
                f"lasts {len(waveform) / self.sample_rate_hz:.1f} s, expected at most "
                f"{self._limit_s:.1f} s. Cut it: 5 to 30 s are enough for a voice."
            )
        waveform = conditioned(waveform, self.sample_rate_hz)
        audio = torch.from_numpy(waveform).float().to(self._device)[None, None]
        codes, lengths = self._codec.encode(audio, torch.tensor([audio.shape[-1]]).to(audio.device))
        return codes[0, :, : int(lengths[0])].cpu().numpy().astype(np.int64)

    @torch.inference_mode()
    def speak(
        self,
        text: str,
        reference_texts: Sequence[str],
        reference_codes: Sequence[np.ndarray],
        asked: Mapping[str, Any],
    ) -> tuple[np.ndarray, str]:
        """Speak a text.

        Args:
            text: The text.
            reference_texts: Words of each recording of the voice; none for the model's own voice.
            reference_codes: int64 (codebooks, frames) of each recording.
            asked: Options, see `ensemble.contract.options`.

        Returns:
            float32 (samples,), mono, in [-1, 1]; and "stop", or "length" if it was cut off.

        Raises:
            ValueError: If an option is out of range, a text has no words, or the prompt too long.
        """
        sampling, fold = sampling_from(asked), server_settings().fold_text
        for name in ("top_k", "ras_window"):
            if getattr(sampling, name):
                raise ValueError(
                    f"{name} is {getattr(sampling, name)}, but upstream's code for S1 has no such "
                    "option. Leave it out, or speak through the server."
                )
        text = prompt_text(text, "text", fold)
        reference_texts = [prompt_text(t, "reference_text", fold) for t in reference_texts]
        codes = self._codes(text, reference_texts, reference_codes, sampling)
        if not codes.shape[1]:
            return np.zeros(0, np.float32), "stop"
        lengths = torch.tensor([codes.shape[1]], device=self._device)
        audio = self._codec.decode(codes[None].long(), lengths)[0]
        cut = codes.shape[1] >= sampling.max_new_tokens
        return audio[0, 0].float().cpu().numpy(), "length" if cut else "stop"

    def _codes(
        self,
        text: str,
        reference_texts: Sequence[str],
        reference_codes: Sequence[np.ndarray],
        sampling: Sampling,
    ) -> torch.Tensor:
        """The codes of the speech, int (codebooks, frames)."""
        torch.manual_seed(sampling.seed)
        generate: Any = generate_long
        answers = generate(
            model=self._llama,
            device=self._device,
            decode_one_token=decode_one_token_ar,
            text=text,
            max_new_tokens=sampling.max_new_tokens + 1,  # upstream cuts the last frame as the end
            top_p=max(sampling.top_p, _LOWEST),
            temperature=min(max(sampling.temperature, _LOWEST), 2 - _LOWEST),
            repetition_penalty=min(sampling.repetition_penalty, 2 - _LOWEST),
            prompt_text=list(reference_texts),
            prompt_tokens=[torch.from_numpy(codes) for codes in reference_codes],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream's, about how it copies its options
            return next(answers).codes
