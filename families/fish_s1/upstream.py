"""The genuine fish-speech 0.1.0 classes, importable without the packages that they do not use.

Upstream's inference modules import transformers, loralib, librosa, audiotools and argbind, and use
nothing of them but a base class and a decorator. While the modules load, an empty module stands in
for each of these packages, installed or not: to import transformers takes seconds, and some of its
versions fail beside a stand-in. Afterwards everything is as before, so that no other library takes
a stand-in for the real package.

Importing this module also silences upstream's log, which prints whole configurations and every
text it speaks, and its progress bar. `loguru.logger.enable("fish_speech")` brings the log back.
"""

import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from loguru import logger


class _BaseModel(torch.nn.Module):
    """The parts of `audiotools.ml.BaseModel` that the codec needs."""

    INTERN: ClassVar[list[str]] = []
    EXTERN: ClassVar[list[str]] = []

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def _undecorated(**_: object) -> Any:
    """Stands in for `argbind.bind(...)`: a decorator that changes nothing."""
    return lambda function: function


# Every name that upstream's modules look up while they are imported.
_STAND_INS: dict[str, dict[str, object]] = {
    "transformers": {"AutoTokenizer": None},
    "loralib": {},
    "librosa": {},
    "argbind": {"bind": _undecorated},
    "audiotools": {"AudioSignal": object, "STFTParams": object},
    "audiotools.ml": {"BaseModel": _BaseModel, "Accelerator": object},
    # Upstream's `inference` sets options of torch's compiler, which would hold for the whole
    # process, and importing it takes 2.7 s.
    "torch._inductor": {},
    "torch._inductor.config": {"triton": types.SimpleNamespace()},
}


_COMPILER: dict[str, dict[str, object]] = {
    "torch._dynamo": {"disable": lambda function, *_, **__: function}
}


@contextmanager
def _stood_in(modules: dict[str, dict[str, object]]) -> Iterator[None]:
    with ExitStack() as undone:
        for name, attributes in modules.items():
            stand_in: Any = types.ModuleType(name)
            # Or who asks whether the package is installed gets a ValueError.
            stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
            vars(stand_in).update(attributes)
            places: list[tuple[dict[str, Any], str]] = [(sys.modules, name)]
            parent, _, child = name.rpartition(".")
            if parent:
                places.append((vars(sys.modules[parent]), child))
            for place, key in places:
                undone.callback(_restore, place, key, place.get(key))
                place[key] = stand_in
        yield


def _restore(place: dict[str, Any], key: str, before: Any) -> None:
    if before is None:
        del place[key]
    else:
        place[key] = before


logger.disable("fish_speech")
with (
    _stood_in(_STAND_INS),
    warnings.catch_warnings(),
):
    warnings.simplefilter("ignore")  # deprecations inside upstream and its dependencies
    import fish_speech.models.text2semantic.inference as _inference
    from fish_speech.content_sequence import ContentSequence, TextPart, VQPart
    from fish_speech.models.dac.modded_dac import DAC, ModelArgs, WindowLimitedTransformer
    from fish_speech.models.dac.modded_dac import precompute_freqs_cis as _codec_freqs_cis
    from fish_speech.models.dac.rvq import DownsampleResidualVectorQuantize
    from fish_speech.models.text2semantic.inference import (
        decode_one_token_ar,
        generate,
        generate_long,
        logits_to_probs,
    )
    from fish_speech.models.text2semantic.llama import (
        BaseTransformer,
        DualARModelArgs,
        DualARTransformer,
    )
    from fish_speech.models.text2semantic.llama import (
        precompute_freqs_cis as _precompute_freqs_cis,
    )
    from fish_speech.tokenizer import ALL_SPECIAL_TOKENS, FishTokenizer

_inference.tqdm = iter  # upstream shows a progress bar on stderr for every utterance
# Upstream's type hints say int where its own code hands over a float or an int | None.
codec_freqs_cis: Callable[..., torch.Tensor] = _codec_freqs_cis
precompute_freqs_cis: Callable[..., torch.Tensor] = _precompute_freqs_cis


@contextmanager
def names_and_shapes() -> Iterator[None]:
    """Modules that are made in this context are on the meta device: no memory, no numbers.

    For some operations there torch imports its compiler, which takes 3 s, only to say that they are
    not to be compiled.
    """
    with _stood_in(_COMPILER), torch.device("meta"):
        yield


__all__ = [
    "ALL_SPECIAL_TOKENS",
    "DAC",
    "BaseTransformer",
    "ContentSequence",
    "DownsampleResidualVectorQuantize",
    "DualARModelArgs",
    "DualARTransformer",
    "FishTokenizer",
    "ModelArgs",
    "TextPart",
    "VQPart",
    "WindowLimitedTransformer",
    "codec_freqs_cis",
    "decode_one_token_ar",
    "generate",
    "generate_long",
    "logits_to_probs",
    "names_and_shapes",
    "precompute_freqs_cis",
]
