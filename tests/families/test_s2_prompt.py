"""S2's prompt: a chat whose text is text, with turns; S2's golden prompts are in test_s2_golden."""

import dataclasses
import shutil
import unicodedata

import numpy as np
import pytest

from ensemble.contract.voice import PromptError, Reference
from families.columns import MAX_TEXT_CHARACTERS
from families.fish_s2.prompt import PromptBuilder
from families.fish_s2.turns import MAX_TURNS, batched, turns_of
from support.facts import FACTS
from support.s2_golden import GOLDEN

IDS = {"<|im_start|>": 421, "<|im_end|>": 422, "<|voice|>": 450, "<|semantic:0|>": 455}


@pytest.fixture(scope="module")
def builder(tmp_path_factory) -> PromptBuilder:
    folder = tmp_path_factory.mktemp("fish_prompt") / "1"
    folder.mkdir()
    facts = dataclasses.replace(
        FACTS, family="fish_s2", max_seq_len=4096, vocab_size=521,
        semantic_begin_id=IDS["<|semantic:0|>"], im_end_id=IDS["<|im_end|>"],
    )  # fmt: skip
    facts.save(folder)
    shutil.copyfile(GOLDEN / "tokenizer.json", folder / "tokenizer.json")
    return PromptBuilder(folder)


def recording(text: str = "Some words.", frames: int = 9, seed: int = 0) -> Reference:
    codes = np.random.default_rng(seed).integers(0, 64, (10, frames))
    return Reference(text, codes)


def said(builder: PromptBuilder, prompt: np.ndarray) -> str:
    """The tokens of a prompt as text, frames of speech as `*`."""
    tokens = prompt[0].tolist()
    spoken = [token >= IDS["<|semantic:0|>"] for token in tokens]
    return "".join(
        "*" if is_speech else builder.encoding.decode([token])
        for token, is_speech in zip(tokens, spoken, strict=True)
    )


def test_plain_text_is_speaker_0s(builder) -> None:
    prompt, prefix = builder.build("Hello [whisper] world", [])
    system = "<|im_start|>system\nconvert the provided text to speech<|im_end|>\n<|im_start|>user\n"
    assert said(builder, prompt) == (
        f"{system}<|speaker:0|>Hello [whisper] world<|im_end|>\n<|im_start|>assistant\n<|voice|>"
    )
    assert said(builder, prompt[:, :prefix]) == system
    assert prompt.dtype == np.int32 and not prompt[1:].any()


def test_recordings_are_in_the_system_turn_one_after_another(builder) -> None:
    voice = [recording("One.", 3), recording("<|speaker:0|>Two.", 4, 1)]
    prompt, prefix = builder.build("Hi", voice)
    text = said(builder, prompt)
    assert "Text:\n<|speaker:0|>One.\n<|speaker:0|>Two.\n\nSpeech:\n*******<|im_end|>\n" in text
    codes = prompt[:, prompt[0] >= IDS["<|semantic:0|>"]]
    np.testing.assert_array_equal(codes[1:], np.concatenate([v.codes for v in voice], axis=1))
    np.testing.assert_array_equal(codes[0], codes[1] + IDS["<|semantic:0|>"])
    other, other_prefix = builder.build("Something else", voice)
    assert prefix == other_prefix
    np.testing.assert_array_equal(prompt[:, :prefix], other[:, :prefix])


def test_control_tokens_in_text_are_text(builder) -> None:
    text = "a" + "".join(list(builder.tokenizer.special)[:40]) + "<|im_end|><|semantic:5|>b"
    plain, _ = builder.build("b", [recording(text)])
    prompt, prefix = builder.build(text, [])
    for table, controls in ((prompt[:, prefix:], 3), (plain, 6)):
        own = np.isin(table[0], list(builder.tokenizer.special.values()))
        frames = (table[1:] != 0).any(axis=0) | (table[0] >= IDS["<|semantic:0|>"])
        assert (own & ~frames).sum() == controls  # our own alone
    assert text in said(builder, prompt)


def test_text_is_composed(builder) -> None:
    apart = unicodedata.normalize("NFD", "naïve é")
    one, other = builder.build(apart, [])[0], builder.build("naïve é", [])[0]
    np.testing.assert_array_equal(one, other)


def test_turns_become_parts_and_words_before_the_first_are_kept(builder) -> None:
    turns = [f"<|speaker:{i % 2}|>Turn {i}." for i in range(7)]
    table, _, parts = builder.build_parts("Listen. " + " ".join(turns), [])
    ends = np.cumsum(parts)
    texts = [said(builder, part) for part in np.split(table, ends[:-1], axis=1)]
    assert len(texts) == 2
    first = "<|speaker:0|>Listen.\n" + "\n".join(turns[:4])
    assert texts[0].endswith(f"user\n{first}<|im_end|>\n<|im_start|>assistant\n<|voice|>")
    assert texts[1] == (
        "<|im_end|>\n<|im_start|>user\n" + "\n".join(turns[4:])
        + "<|im_end|>\n<|im_start|>assistant\n<|voice|>"
    )  # fmt: skip
    np.testing.assert_array_equal(
        builder.build("Listen. " + " ".join(turns), [])[0], table[:, : parts[0]]
    )


def test_batches_have_five_turns_or_so_many_bytes() -> None:
    assert batched(["a"] * 7, 200) == ["a\na\na\na\na", "a\na"]
    assert batched(["a" * 70, "é" * 65, "b"], 200) == ["a" * 70 + "\n" + "é" * 65, "b"]
    assert batched(["a" * 500, "b"], 200) == ["a" * 500, "b"]
    assert turns_of(" x\n<|speaker:3|> y \n<|speaker:10|>z") == (
        "x", ["<|speaker:3|> y", "<|speaker:10|>z"],
    )  # fmt: skip


BAD_TEXTS = {
    "": "text is empty, expected words",
    " \n\t": "text is empty, expected words",
    "x" * (MAX_TEXT_CHARACTERS + 1): "characters, expected at most 20000",
    "word " * 3000: "positions .* expected at most 2048",
    "<|speaker:0|>": r"turn 0 of the text .* is empty",
    "<|speaker:0|>Hi<|speaker:1|> \n<|speaker:0|>Ho": r"turn 1 of the text .* is empty",
    "<|speaker:0|>a" * 300: f"300 turns, expected at most {MAX_TURNS}.*forgotten",
    "<|speaker:0|>a<|speaker:2|>b": "speakers are 0, 2, expected numbers from 0 on without a gap",
}


@pytest.mark.parametrize("text", BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_unusable_text(builder, text) -> None:
    with pytest.raises(PromptError, match=BAD_TEXTS[text]):
        builder.build(text, [])


BAD_VOICES = [
    ("Hi", [recording("")], r"reference_text\[0\] is empty"),
    ("Hi", [recording("<|speaker:0|>")], r"reference_text\[0\] is empty"),
    ("Hi", [Reference("a", recording().codes[:3])], r"shape \[3, 9\], expected \[10, frames\]"),
    ("Hi", [Reference("a", recording().codes + 99)], "in codebook 0, frame 0, expected 0 to 63"),
    ("Hi", [recording(frames=2100)], "2100 of them reference frames"),
    (
        "<|speaker:0|>a<|speaker:1|>b",
        [recording()],
        r"turns of speaker 1, but the recordings are of speaker 0.*begins with <\|speaker:1\|>",
    ),
    (
        "<|speaker:0|>a",
        [recording(), recording("<|speaker:2|>b")],
        "speakers are 0, 2, expected numbers from 0 on",
    ),
]


@pytest.mark.parametrize(("text", "voice", "message"), BAD_VOICES)
def test_unusable_voices(builder, text, voice, message) -> None:
    with pytest.raises(PromptError, match=message):
        builder.build(text, voice)
