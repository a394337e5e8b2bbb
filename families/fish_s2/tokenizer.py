"""Reads `tokenizer.json`, a byte-level BPE in Hugging Face's format, for tiktoken. No torch.

Ranks are the ids, because merges are in the order of the ids; that is checked. `<|speaker:N|>` is
no token of its own: it is spelled out.
"""

import itertools
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiktoken

from families.registry import CheckpointError

FILE_NAME = "tokenizer.json"
IM_END = "<|im_end|>"
# Qwen2's, which S2-Pro's file has.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL = ("<|im_start|>", IM_END, "<|voice|>")
_WHO = f"{FILE_NAME}: "
_AGAIN = "Take the tokenizer.json that came with the weights"


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of one checkpoint.

    Attributes:
        encoding: Its text tokens, and its control tokens as special ones.
        special: Control tokens and their ids.
        num_text: Text tokens, whose ids are the first.
        size: Ids, of text and control tokens together.
        semantic_begin, num_semantic: Token of semantic code 0, and how many codes have one.
        composes: Whether text is brought into Unicode's normal form C first.
    """

    encoding: tiktoken.Encoding
    special: dict[str, int]
    num_text: int
    size: int
    semantic_begin: int
    num_semantic: int
    composes: bool

    def normal(self, text: str) -> str:
        """The text in the form in which it is tokenized."""
        return unicodedata.normalize("NFC", text) if self.composes else text


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the file of a folder.

    Raises:
        FileNotFoundError: If there is none.
        CheckpointError: If it is no tokenizer of this kind; says what is wrong.
    """
    try:
        values = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        return _tokenizer(values)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{_WHO}is not JSON ({error}). Download it again") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{_WHO}is not laid out as a byte-level BPE ({error!r}). {_AGAIN}"
        ) from error


def _tokenizer(values: dict[str, Any]) -> Tokenizer:
    special = {token["content"]: int(token["id"]) for token in values["added_tokens"]}
    if lacking := [token for token in _CONTROL if token not in special]:
        raise CheckpointError(f"{_WHO}lacks {', '.join(lacking)}, expected S2's control tokens")
    ranks = _ranks(values["model"])
    begin, count = _semantic_range(special)
    encoding = tiktoken.Encoding(
        "fish_s2", pat_str=_pattern(values["pre_tokenizer"]), mergeable_ranks=ranks,
        special_tokens=special,
    )  # fmt: skip
    size = 1 + max(*special.values(), *ranks.values())
    composes = _composes(values["normalizer"])
    return Tokenizer(encoding, special, len(ranks), size, begin, count, composes)


def _ranks(model: dict[str, Any]) -> dict[bytes, int]:
    vocabulary, byte_of = model["vocab"], byte_alphabet()
    if model["type"] != "BPE" or model.get("ignore_merges") or model.get("byte_fallback"):
        raise CheckpointError(f"{_WHO}model is {model['type']}, expected a byte-level BPE")
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    merged = [vocabulary["".join(pair)] for pair in pairs]
    if any(later <= sooner for sooner, later in itertools.pairwise(merged)):
        raise CheckpointError(f"{_WHO}merges are not in the order of their ids. {_AGAIN}")
    return {bytes(byte_of[c] for c in token): int(rank) for token, rank in vocabulary.items()}


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed are themselves."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printed)
    return {chr(byte): byte for byte in printed} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The pattern that cuts text into pieces, which merges do not cross."""
    steps = pre_tokenizer["pretokenizers"]
    if [step["type"] for step in steps] != ["Split", "ByteLevel"] or (
        steps[0].get("invert") or steps[1].get("use_regex") or steps[1].get("add_prefix_space")
    ):
        raise CheckpointError(
            f"{_WHO}cuts text by {[step['type'] for step in steps]}, expected one Split by a "
            f"pattern, then ByteLevel without a pattern and without a space in front. {_AGAIN}"
        )
    return steps[0]["pattern"]["Regex"]


def _composes(normalizer: dict[str, Any] | None) -> bool:
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if kinds := [step["type"] for step in steps if step["type"] != "NFC"]:
        raise CheckpointError(f"{_WHO}normalizes text by {kinds}, expected NFC alone. {_AGAIN}")
    return bool(steps)


def _semantic_range(special: dict[str, int]) -> tuple[int, int]:
    count = sum(token.startswith("<|semantic:") for token in special)
    begin = special.get("<|semantic:0|>", -1)
    if any(special.get(f"<|semantic:{i}|>") != begin + i for i in range(count)) or not count:
        raise CheckpointError(
            f"{_WHO}its {count} semantic tokens are not <|semantic:0|> and those after it with "
            f"ids in a row. {_AGAIN}"
        )
    return begin, count
