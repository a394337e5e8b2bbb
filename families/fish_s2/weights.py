"""The weights of a checkpoint under fish-speech 0.1.0's names, mapped into memory."""

from pathlib import Path

from torch import Tensor

from families.fish_s1.weights import fused, listed, read_llama
from families.fish_s2.safetensors import INDEX, SINGLE, read_file, read_indexed
from families.registry import CheckpointError

# Beginnings of published names -> those of fish-speech 0.1.0; the first that fits counts.
_NAMES = {
    "text_model.model.": "",
    "audio_decoder.codebook_embeddings.": "codebook_embeddings.",
    "audio_decoder.": "fast_",
}
_BACK = {
    "codebook_embeddings.": "audio_decoder.codebook_embeddings.",
    "fast_": "audio_decoder.",
    "": "text_model.model.",
}


def published(name: str) -> str:
    """The name that a tensor of fish-speech 0.1.0's has in S2's files."""
    begin = next(begin for begin in _BACK if name.startswith(begin))
    return _BACK[begin] + name.removeprefix(begin)


def weights_file(folder: Path) -> str:
    """The file to begin with, in upstream's order; "" if there is none."""
    return next((n for n in (INDEX, SINGLE, "model.pth") if (folder / n).is_file()), "")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the language model under fish-speech 0.1.0's name.

    Raises:
        CheckpointError: If a file is missing or damaged, or holds foreign names or anything but
            floating point.
    """
    file = weights_file(folder)
    if file == "model.pth":  # a state dict that was converted before
        return read_llama(folder / file)
    tensors = read_indexed(folder) if file == INDEX else read_file(folder / file)
    if foreign := [name for name in tensors if not name.startswith(tuple(_NAMES))]:
        raise CheckpointError(
            f"{file}: {len(foreign)} tensors have foreign names: {listed(foreign)}. Expected those "
            f"of S2 as published ({', '.join(f'{begin}...' for begin in _NAMES)}), not of a "
            "converted or quantised copy"
        )
    return fused({_plain(name): tensor for name, tensor in tensors.items()})


def _plain(name: str) -> str:
    begin = next(begin for begin in _NAMES if name.startswith(begin))
    return _NAMES[begin] + name.removeprefix(begin)
