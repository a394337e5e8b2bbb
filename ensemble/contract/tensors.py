"""The one table of what every served model takes and gives.

`model_repository/*/config.pbtxt` says the same in Triton's words; `python -m ensemble.check`
holds the two, and the exported artefacts, against each other.
"""

from dataclasses import dataclass

from ensemble.contract.options import OPTIONS

ANY = -1  # an axis whose size is the request's or the checkpoint's


@dataclass(frozen=True)
class Tensor:
    """One input or output of a served model, a config.pbtxt or an exported graph.

    Attributes:
        name: The name on the wire, in the exported graphs and in Python.
        dtype: Triton's name for it (`FP32`, `INT64`, ...). Text is `BYTES` in `MODELS`, as on the
            wire, and `STRING` where it was read from a config.pbtxt.
        dims: Its axes, `ANY` where one varies. Without the leading batch axis in `MODELS`, with it
            where a config is compared with an exported graph.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


_OPTION_INPUTS = tuple(Tensor(o.name, o.dtype, (1,), optional=True) for o in OPTIONS)

# What the caller says of the voice: either audio, encoded on the way, or codes made earlier.
_VOICE_AS_AUDIO = (
    Tensor("reference_audio", "FP32", (ANY,)),  # mono, in [-1, 1]
    Tensor("reference_text", "BYTES", (1,)),
    Tensor("reference_sample_rate", "INT32", (1,), optional=True),  # Hz
    Tensor("chunk_size_s", "FP32", (1,), optional=True),  # encoded at a time, seconds
)
_VOICE_AS_CODES = (  # left out, or of 0 frames: the checkpoint's own voice
    Tensor("reference_text", "BYTES", (ANY,), optional=True),  # one per reference
    Tensor("reference_codes", "INT64", (ANY, ANY), optional=True),  # codebooks, all frames
    Tensor("reference_frames", "INT32", (ANY,), optional=True),  # frames of each reference
    Tensor("checkpoint_id", "BYTES", (1,), optional=True),  # that made the codes
    # The same as reference_codes, as Triton's HTTP generate extension gives it, which knows no
    # shapes: all numbers in a row, padding included, one answer of fish_encode after the other.
    Tensor("codes", "INT64", (ANY,), optional=True),
)
# Inputs that stand for another one: a step that is given the second needs not the first.
INSTEAD_OF = {"codes": "reference_codes"}
_TEXT = Tensor("text", "BYTES", (1,))

# What comes back beside the audio, from the LLaMA stage through to the caller.
_CHUNK = (
    Tensor("chunk_index", "INT32", (1,)),  # 0, 1, ...: order them by this
    Tensor("num_samples", "INT32", (1,)),  # valid samples of `audio`; the rest is padding
    Tensor("is_last", "BOOL", (1,)),
    Tensor("finish_reason", "BYTES", (1,)),  # "", and with the last chunk FINISH_REASONS
    Tensor("sample_rate", "INT32", (1,)),  # Hz
)
_CHUNKS = (Tensor("audio", "FP32", (ANY,)), *_CHUNK)
_WHOLE = (
    Tensor("audio", "FP32", (ANY,)),
    Tensor("finish_reason", "BYTES", (1,)),
    Tensor("sample_rate", "INT32", (1,)),
)
_CODES = Tensor("codes", "INT64", (ANY, ANY))  # codebooks (10 in S1-mini), frames
_NEW_FRAMES = Tensor("new_frames", "INT64", (ANY,))  # absolute numbers to decode; -1: padding

# The last two come with an empty chunk: the caller has left, or the request's timeout has passed.
FINISH_REASONS = ("stop", "length", "runaway", "cancelled", "timeout")

_REFERENCE = (_VOICE_AS_AUDIO[0], *_VOICE_AS_AUDIO[2:])
_WAVEFORM = (
    Tensor("waveform", "FP32", (ANY,)),
    Tensor("chunk_frames", "INT64", (1,)),  # encoded at a time, over all rows of a batch
)
_REFERENCE_FACTS = (
    Tensor("reference_frames", "INT32", (1,)),  # frames of `codes` that are not padding
    Tensor("checkpoint_id", "BYTES", (1,)),
)

# The models that callers use; the others are parts of them, or control them.
FRONT_DOORS = ("fish_tts", "fish_clone", "fish_tts_stream", "fish_clone_stream", "fish_encode")

MODELS = {
    "fish_reference": Signature(
        _REFERENCE,
        (*_WAVEFORM, *_REFERENCE_FACTS),
    ),
    "fish_encoder": Signature(_WAVEFORM, (_CODES,)),
    "fish_prompt": Signature(
        (_TEXT, *_VOICE_AS_CODES),
        (
            Tensor("prompt", "INT32", (ANY, ANY)),  # 1 + codebooks, positions
            Tensor("prefix_length", "INT32", (1,)),  # positions that belong to the voice
            Tensor("prompt_parts", "INT32", (ANY,)),  # positions of each; speech follows each
        ),
    ),
    "fish_llama": Signature(
        (
            Tensor("prompt", "INT32", (ANY, ANY)),
            Tensor("prefix_length", "INT32", (1,), optional=True),
            Tensor("prompt_parts", "INT32", (ANY,), optional=True),
            *_OPTION_INPUTS,
        ),
        (_CODES, _NEW_FRAMES, *_CHUNK),
    ),
    "fish_decoder": Signature((_CODES, _NEW_FRAMES), (Tensor("audio", "FP32", (ANY,)),)),
    "fish_encode": Signature(_REFERENCE, (_CODES, *_REFERENCE_FACTS)),
    # What the server's checkpoint is and which defaults it has, as JSON; it takes nothing.
    "fish_checkpoint": Signature((), (Tensor("checkpoint", "BYTES", (1,)),)),
    # Ends the request that has this cancel_token among its parameters; false: there was none.
    "fish_cancel": Signature(
        (Tensor("cancel_token", "BYTES", (1,)),), (Tensor("cancelled", "BOOL", (1,)),)
    ),
    "fish_tts_stream": Signature((_TEXT, *_VOICE_AS_CODES, *_OPTION_INPUTS), _CHUNKS),
    "fish_clone_stream": Signature((_TEXT, *_VOICE_AS_AUDIO, *_OPTION_INPUTS), _CHUNKS),
    "fish_tts": Signature((_TEXT, *_VOICE_AS_CODES, *_OPTION_INPUTS), _WHOLE),
    "fish_clone": Signature((_TEXT, *_VOICE_AS_AUDIO, *_OPTION_INPUTS), _WHOLE),
}
