"""The prompt: equal to upstream's, and safe against what callers write."""

import json

import numpy as np
import pytest

from ensemble.contract.voice import PromptError, Reference
from families.fish_s1.prompt import MAX_TEXT_CHARACTERS, PromptBuilder


@pytest.fixture(scope="module")
def builder(repository) -> PromptBuilder:
    return PromptBuilder(repository / "fish_prompt" / "1")


def reference(builder: PromptBuilder, frames: int, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, n, frames) for n in builder.facts.codebook_sizes]
    return Reference("Some words, 12 of them!", np.stack(codes))


@pytest.mark.torch
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("text", ["Hello.", " It's 42°, naïve  –  日本語\r\n\tok?!", "(angry) No!"])
def test_equals_upstream(builder, tiny_checkpoint, count, text) -> None:
    import torch

    from families.fish_s1.upstream import ContentSequence, FishTokenizer, TextPart, VQPart

    references = [reference(builder, 7 + i, i) for i in range(count)]
    sequence = ContentSequence(modality="interleave")
    for r in references:
        parts = [TextPart(text=r.text), VQPart(codes=torch.from_numpy(r.codes))]
        sequence.append(parts, add_end=True, speaker=0)
    sequence.append([TextPart(text=text)], add_end=False, speaker=0)
    tokenizer = FishTokenizer.from_pretrained(str(tiny_checkpoint))
    books = builder.facts.num_codebooks
    expected, _, _ = sequence.encode_for_inference(tokenizer, num_codebooks=books)
    prompt, prefix = builder.build(text, references)
    assert prompt.dtype == np.int32
    np.testing.assert_array_equal(prompt, expected.numpy())
    other, other_prefix = builder.build("Something else", references)
    assert prefix == other_prefix
    np.testing.assert_array_equal(prompt[:, :prefix], other[:, :prefix])


def test_control_tokens_in_text_are_text(builder) -> None:
    special = json.loads(json.dumps(list(builder.special)))
    text = "a" + "".join(special[:20]) + "<|im_end|><|semantic:5|>b"
    prompt, prefix = builder.build(text, [])
    assert prompt[0, prefix:].max() < min(builder.special.values())
    assert builder.encoding.decode(prompt[0, prefix:].tolist()) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text is empty"),
        (" \n\t", "text is empty"),
        ("x" * (MAX_TEXT_CHARACTERS + 1), "characters, expected at most"),
        ("word " * 3000, "positions .* expected at most"),
    ],
)
def test_unusable_text(builder, text, message) -> None:
    with pytest.raises(PromptError, match=message):
        builder.build(text, [])


@pytest.mark.parametrize("value", [-1, 10**6])
def test_codes_out_of_range(builder, value) -> None:
    wrong = reference(builder, 9)
    wrong.codes[3, 4] = value
    with pytest.raises(PromptError, match=rf"{value} in codebook 3, frame 4, expected 0 to"):
        builder.build("Hi", [wrong])


def test_codes_of_wrong_shape(builder) -> None:
    good = reference(builder, 9)
    with pytest.raises(PromptError, match=r"shape \[3, 9\], expected \[10, frames\]"):
        builder.build("Hi", [Reference("a", good.codes[:3])])
    with pytest.raises(PromptError, match="no frames"):
        builder.build("Hi", [Reference("a", good.codes[:, :0])])
    with pytest.raises(PromptError, match=r"reference_text\[1\] is empty"):
        builder.build("Hi", [good, Reference("", good.codes)])
    limit = builder.facts.max_prompt_length
    with pytest.raises(PromptError, match=f"{limit} of them reference frames"):
        builder.build("Hi", [reference(builder, limit)])
