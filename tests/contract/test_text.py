"""Texts before the tokenizer: what has no words is refused, odd characters are folded."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.contract.text import folded, has_words, prompt_text
from ensemble.contract.voice import PromptError
from voicereel.errors import InvalidRequest
from voicereel.text import has_words as client_has_words
from voicereel.text import require_words

SPEECHLESS = [
    "\u200b", "\u2060\u200e", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "...",
    "…", "—", "- - -", "?!", "\u0301", "\u093f", "\u3164", "\u115f\u1160", "\uffa0", "。", "¿?",
    "\u200c\u200d", "\ufeff", "<|>", "\u2800", "\x00\x07", "♪ ♫", "\ufe0f", "$", "🇬🇧",
]  # fmt: skip
SPOKEN = [
    "a",
    "7",
    "½",
    "²",
    "Ⅷ",
    "日",
    "ก",
    "ß",
    "क",
    "- 7 -",
    "\u200bno",
    "<|im_end|>",
    "１",
    "اب",
]
ORDINARY = [
    "Good morning, Bob. Did you sleep well?", "Dr. Smith paid 3.5 %.\nThen he left.\r\n",
    "今天天气很好。你好吗？他说：“走吧。”", "「はい」、と彼は言った！　",
    "Größe, naïve, façade, Ångström",
    "उसने क़लम ख़रीदा।", "می‌خواهم", "שָׁלוֹם", "E = mc² costs ½", "<|im_end|><|semantic:5|>",
    "안녕하세요", "ok 👍🏽",
    "ﬁne", "①", "ﾊﾛｰ",
]  # fmt: skip


@pytest.mark.parametrize("text", SPEECHLESS, ids=ascii)
def test_nothing_to_say_is_refused_on_both_sides(text) -> None:
    with pytest.raises(PromptError) as refused:
        prompt_text(text, "reference_text[1]")
    with pytest.raises(InvalidRequest, match=r"the text of a.wav is .* no words to say"):
        require_words(text, "the text of a.wav")
    assert str(refused.value) == (
        f"reference_text[1] is {text!a}, which has no letter or digit: no words to say."
    )


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000\u00a0"])
def test_an_empty_text_is_called_empty(text) -> None:
    with pytest.raises(PromptError, match=r"^text is empty, expected words to say\.$"):
        prompt_text(text, "text")
    with pytest.raises(InvalidRequest, match=r"^text is empty, expected words to say$"):
        require_words(text, "text")


@pytest.mark.parametrize("text", SPOKEN, ids=ascii)
def test_letters_and_digits_of_any_script_are_words(text) -> None:
    assert has_words(text) and client_has_words(text)


@pytest.mark.slow
def test_client_and_server_have_one_rule() -> None:
    every = map(chr, range(sys.maxunicode + 1))
    assert [c for c in every if has_words(c) != client_has_words(c)] == []


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_text_stays_as_it_is(text) -> None:
    assert prompt_text(text, "text") == text.replace("\u3000", " ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ｇｏｏｄ　ｍｏｒｎｉｎｇ， Ｂｏｂ １２", "Good morning， Bob 12"),
        ("Good  \t morning,\u00a0\u2009Bob.", "Good morning, Bob."),
        ("G\u200bood\u2060 mor\u00adning\ufeff, \u200eBob\u200f.", "Good morning, Bob."),
        ("Jose\u0301 a\u0302te e\u0323\u0302", "José âte ệ"),
        ("one\n\n  two", "one\n\n two"),
    ],
)
def test_odd_characters_are_folded_unless_switched_off(text, expected) -> None:
    assert prompt_text(text, "text") == expected
    assert prompt_text(text, "text", fold=False) == text


@given(st.text(max_size=60))
def test_folding_is_done_once_and_keeps_every_letter_and_digit(text) -> None:
    once = folded(text)
    assert folded(once) == once

    def spoken(of: str) -> str:
        wide = unicodedata.normalize("NFKD", of)
        return "".join(c for c in wide if unicodedata.category(c)[0] in "LN")

    assert spoken(once) == spoken(text)
