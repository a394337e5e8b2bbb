"""The served encoder: waveform -> codes, chunk by chunk.

Source: `DAC.encode` of fish-speech 0.1.0, models/dac/modded_dac.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.layers import CausalConv, CausalSequence, rebuilt
from engine.codec.quantizer import ResidualQuantizer
from engine.codec.streaming import StreamState, samples_per_frame
from engine.codec.transformer import WindowTransformer


class EncoderStep(nn.Module):
    """The next chunk of a waveform -> its codes, and the state for the chunk after it.

    Takes waveform float32 (batch, frames * samples_per_frame), state float32 (batch, state_size),
    zeros at first, and start int64 (), the samples before the chunk. Gives codes int64 (batch,
    codebooks, frames) and the next state. A chunk may have any number of frames.
    """

    def __init__(self, codec: Any, max_frames: int) -> None:
        super().__init__()
        self.layers = CausalSequence(
            rebuilt(codec.encoder.block, "encoder"),
            rebuilt(codec.quantizer.downsample, "quantizer.downsample"),
            rebuilt(codec.quantizer.pre_module, "quantizer.pre_module"),
        )
        self.quantizer = ResidualQuantizer(codec)
        self.max_frames = 2**31  # or as many as its transformers have positions for
        per_frame = 1
        for layer in reversed(list(self.layers.layers())):
            if isinstance(layer, CausalConv):
                per_frame *= layer.conv.stride[0]
            elif isinstance(layer, WindowTransformer):
                layer.extend(max_frames * per_frame)
                self.max_frames = min(self.max_frames, len(layer.cos_sin) // per_frame)
        self.state_size = sum(getattr(module, "state_size", 0) for module in self.modules())

    def forward(self, waveform: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        carried = StreamState(state, start)
        codes = self.quantizer(self.layers(waveform[:, None], carried))
        return codes, carried.packed()


class EncoderGraph(nn.Module):
    """A waveform -> codes, chunk by chunk: memory does not grow with its length.

    Takes waveform float32 (batch, samples) in [-1, 1] and chunk_frames int64 (batch, 1), the
    frames to encode at a time, over all rows of the batch together; the smallest counts. Gives
    codes int64 (batch, codebooks, frames), whatever the chunks. It takes any number of samples: the
    last frame is filled up with zeros, as upstream does. TorchScript can follow the loop.
    """

    def __init__(self, codec: Any, max_frames: int = 0) -> None:
        """Rewrite the genuine encoder.

        Args:
            codec: The genuine module, in eval mode.
            max_frames: Encode recordings of this many frames too, longer than upstream's tables.
        """
        super().__init__()
        self.samples_per_frame = samples_per_frame(codec)
        self.step: Any = EncoderStep(codec, max_frames)
        self.state_size = int(self.step.state_size)
        self.codebooks = len(self.step.quantizer.books)

    def forward(self, waveform: Tensor, chunk_frames: Tensor) -> Tensor:
        batch, samples, frame = waveform.shape[0], waveform.shape[1], self.samples_per_frame
        frames = (samples + frame - 1) // frame
        waveform = F.pad(waveform, (0, frames * frame - samples))
        chunk = int((chunk_frames.min() // batch).clamp(max=frames).clamp(min=1))
        state = torch.zeros(batch, self.state_size, device=waveform.device)
        codes = torch.zeros(batch, self.codebooks, 0, dtype=torch.int64, device=waveform.device)
        start = torch.zeros_like(chunk_frames[0, 0])
        for i in range((frames + chunk - 1) // chunk):
            part = waveform[:, i * chunk * frame : (i + 1) * chunk * frame]
            new, state = self.step(part, state, start)
            codes = torch.cat([codes, new], dim=2)
            start = start + chunk * frame
        return codes
