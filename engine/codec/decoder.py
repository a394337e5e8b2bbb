"""The served decoder: windows of codes -> audio.

Source: `DAC.decode` of fish-speech 0.1.0, models/dac/modded_dac.py.
"""

from typing import Any

import torch
from torch import Tensor, nn

from engine.codec.layers import CausalSequence, rebuilt
from engine.codec.quantizer import Dequantizer
from engine.codec.streaming import layer_windows, samples_per_frame
from engine.codec.transformer import WindowTransformer


class DecoderGraph(nn.Module):
    """A window of codes -> the audio of its new frames, equal to decoding everything at once.

    Takes codes int64 (batch, codebooks, frames), history first and new frames last, and
    new_frames int64 (batch, new), the absolute numbers of the last `new` frames. Gives audio
    float32 (batch, new * samples_per_frame) in [-1, 1]. Before the frame numbered 0 there may be
    padding, so that windows with unequal histories fit into one batch; but before the first of the
    new ones there must be a frame, or nothing.

    The transformer sees the whole window. From there on each layer gets the new frames and its
    context, no more: convolutions are nearly all of the cost, and most of theirs is at high rates,
    where a context is a fraction of a frame.
    """

    count: Tensor

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.samples_per_frame = samples_per_frame(codec)
        self.dequantizer = Dequantizer(codec)
        self.transformer = rebuilt(codec.quantizer.post_module, "quantizer.post_module")
        self.convolutions = CausalSequence(
            *rebuilt(codec.quantizer.upsample, "quantizer.upsample"),
            *rebuilt(codec.decoder.model, "decoder"),
        )
        self.windows = layer_windows(self.convolutions.layers())
        self.context_frames = self.windows[0].context
        block_size = int(codec.quantizer.post_module.config.block_size)
        self.register_buffer("count", torch.arange(block_size)[None])

    @property
    def num_codebooks(self) -> int:
        """Rows of codes that are read."""
        return self.dequantizer.rows.largest.shape[1]

    @property
    def max_frames(self) -> int:
        """Frames of the longest window, and one more than the highest number of a frame."""
        return self.count.shape[1]

    @property
    def history_frames(self) -> int:
        """Frames before the new ones that can still be heard in them; more changes nothing."""
        reach = self.transformer.reach if isinstance(self.transformer, WindowTransformer) else 0
        return self.context_frames + reach

    def hidden(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        """The input of the convolutions: float32 (batch, dim, frames), history included."""
        begins = new_frames[:, :1] - (codes.shape[2] - new_frames.shape[1])
        positions = begins + self.count[:, : codes.shape[2]]
        # Padding has no number of its own; beyond the last position there must be an error.
        positions = torch.minimum(positions, new_frames.amax(1, keepdim=True)).clamp(min=0)
        z = self.dequantizer(codes)
        if isinstance(self.transformer, WindowTransformer):  # a codec may do without
            z = self.transformer(z, positions=positions, missing=-begins)
        return z

    def forward(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        new = new_frames.shape[1]
        # From a buffer, which is on the device: a traced size is not, and clamp refuses it.
        history = torch.minimum(new_frames[:, :1, None], self.count[0, codes.shape[2] - new])
        x = self.hidden(codes, new_frames)
        for window in self.windows:  # near the start of the audio there is less than a context
            x = x[:, :, -(new * window.rate + window.context) :]
            if window.context > window.rate and window.layer.context(0):
                # The context may be longer than the history: what lies before that is silence.
                audio_begin = x.shape[2] - (history + new) * window.rate
                place = torch.ones_like(x[:1, :1], dtype=torch.int64).cumsum(2)  # 1, 2, ...
                x = torch.where(place <= audio_begin, 0.0, x)
            x = window.layer(x)
        return x[:, 0, -(new * self.samples_per_frame) :]
