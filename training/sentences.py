"""Sentences drawn from a grammar, and their fixed split into trained on and held out."""

import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

GRAMMAR = Path(__file__).with_name("sentences.txt")
_HELD_OUT = 16  # one sentence in 16 is never trained on
_REFERENCE = re.compile(r"\{(\w+)\}")

Rules = dict[str, list[str]]


def read_rules(path: Path = GRAMMAR) -> Rules:
    """The grammar: name of a rule -> its alternatives; the first rule is the start."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return {name: alternatives.split(" | ") for name, alternatives in pairs}


def draw(rules: Rules, random_source: random.Random) -> str:
    """A random sentence as it is written; all alternatives of a rule are equally likely."""

    def expand(name: str) -> str:
        chosen = random_source.choice(rules[name])
        return _REFERENCE.sub(lambda reference: expand(reference[1]), chosen)

    text = expand(next(iter(rules)))
    return text[0].upper() + text[1:]


def is_held_out(text: str) -> bool:
    """Whether a sentence is for measuring only: a hash decides, so the split never changes."""
    return zlib.crc32(text.encode()) % _HELD_OUT == 0


def sentences(seed: int, held_out: bool) -> Iterator[str]:
    """Random sentences without end, from one side of the split."""
    rules, random_source = read_rules(), random.Random(seed)
    while True:
        text = draw(rules, random_source)
        if is_held_out(text) == held_out:
            yield text


def words(text: str) -> str:
    """The words of a text as a recogniser writes them: lower case, no punctuation."""
    return re.sub(r"[^a-z' ]", "", text.lower())


def jsgf(rules: Rules, several: bool = False) -> str:
    """The same grammar in the JSpeech Grammar Format, for the recogniser.

    Args:
        rules: The grammar.
        several: Whether one or more sentences may follow each other.
    """
    start = next(iter(rules))
    lines = ["#JSGF V1.0;", f"grammar {start};"]
    lines += [f"public <text> = <{start}>+;"] if several else []
    for name, alternatives in rules.items():
        spoken = [_REFERENCE.sub(r"<\1>", _spoken(text)) for text in alternatives]
        public = "public " if name == start and not several else ""
        lines.append(f"{public}<{name}> = {' | '.join(spoken)};")
    return "\n".join(lines) + "\n"


def _spoken(alternative: str) -> str:
    return re.sub(r"[^a-z' {}_]", "", alternative.lower())
