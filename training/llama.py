"""Trains the two transformers on the codec's codes: genuine DualARTransformer, small.

Upstream's own training `forward` of 0.1.0 cannot be called (its two halves do not fit together), so
the slow half is used as it is, and the fast half is written out with the codes as targets.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from families.fish_s1 import demo
from families.fish_s1.make_checkpoint import write_tokenizer
from families.fish_s1.presets import PRESETS
from families.fish_s1.upstream import (
    BaseTransformer,
    DualARModelArgs,
    DualARTransformer,
    FishTokenizer,
)
from training import settings
from training.codes import Codes
from training.device import DEVICE
from training.loop import Deadline, Losses, Trainer

_IGNORED = -100  # label without a loss, where the next token is not speech


def demo_tokenizer() -> FishTokenizer:
    """Upstream's tokenizer with the demo voice's tokens."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(PRESETS["demo"], Path(folder))
        return FishTokenizer.from_pretrained(folder)


def new_llama(config: dict[str, Any] = demo.LLAMA) -> DualARTransformer:
    """The transformers before training, as upstream initialises them."""
    torch.manual_seed(0)
    arguments: Any = DualARModelArgs(**config)
    return DualARTransformer(arguments, demo_tokenizer()).train()


class Prompts:
    """Sequences of several utterances of one voice, in the format of a served prompt.

    Each utterance is trained as the answer to those before it as references, and the first one as
    an answer without any reference.
    """

    def __init__(self, codes: Codes, wanted: settings.Llama, tokenizer: FishTokenizer) -> None:
        self.codes, self.wanted = codes, wanted
        self.begin = tokenizer.semantic_begin_id
        interleave, speaker, self.end = (
            tokenizer.get_token_id(token)
            for token in ("<|interleave|>", "<|speaker:0|>", "<|im_end|>")
        )
        self._interleave, self._speaker, self._end = map(
            _tokens, ([interleave], [speaker], [self.end])
        )
        self._texts = [
            _tokens(tokenizer.encode(u.text, allowed_special=False)) for u in codes.utterances
        ]

    def sequence(self, indices: Iterable[int]) -> np.ndarray:
        """One sequence, int64 (1 + codebooks, positions)."""
        columns = [self._interleave]
        for index in indices:
            spoken = self.codes[index]
            speech = np.concatenate([spoken[:1] + self.begin, spoken])
            columns += [self._speaker, self._texts[index], speech, self._end]
        return np.concatenate(columns, axis=1)

    def batch(self, step: int) -> Tensor:
        """The sequences of a step, int64 (batch, 1 + codebooks, positions), padded with the end."""
        chance = np.random.default_rng((11, step))
        voices = chance.integers(len(self.codes.by_voice), size=self.wanted.batch)
        sequences = [
            self.sequence(chance.choice(self.codes.by_voice[v], self.wanted.utterances, False))
            for v in voices
        ]
        return padded(sequences, self.end)

    def labels(self, batch: Tensor) -> Tensor:
        """See `labels_of`."""
        return labels_of(batch, self.begin)


def padded(sequences: list[np.ndarray], end: int) -> Tensor:
    """Sequences (1 + codebooks, positions) as int64 (batch, 1 + codebooks, positions)."""
    # The last position is only a label.
    longest = -(-max(s.shape[1] for s in sequences) // 16) * 16 + 1
    batch = np.zeros((len(sequences), sequences[0].shape[0], longest), np.int64)
    batch[:, 0] = end
    for row, sequence in zip(batch, sequences, strict=True):
        row[:, : sequence.shape[1]] = sequence
    return torch.from_numpy(batch)


def labels_of(batch: Tensor, begin: int) -> Tensor:
    """Next tokens, ignored unless speech or its end: int64 (batch, positions - 1).

    Args:
        batch: int64 (batch, 1 + codebooks, positions).
        begin: Token of semantic code 0; all tokens from it on are semantic.
    """
    tokens, following = batch[:, 0, :-1], batch[:, 0, 1:]
    speaking = (tokens >= begin) | (following >= begin)
    return torch.where(speaking, following, _IGNORED)


def _tokens(tokens: list[int]) -> np.ndarray:
    columns = np.zeros((1 + demo.LLAMA["num_codebooks"], len(tokens)), np.int64)
    columns[0] = tokens
    return columns


def corrupted(batch: Tensor, begin: int, most: float) -> Tensor:
    """A batch with some codes replaced at random: a share of 0 to `most` of each sequence.

    True codes predict the next ones so well that the text is hardly read: without replacements
    half of the words came out as others of the same kind (README.md).
    """
    size = demo.LLAMA["codebook_size"]
    share = most * torch.rand(len(batch), 1, 1, device=batch.device)
    replaced = torch.rand(batch[:, 1:].shape, device=batch.device) < share
    replaced &= (batch[:, :1] >= begin) & (batch[:, :1] < begin + size)
    others = torch.randint(size, replaced.shape, device=batch.device)
    codes = torch.where(replaced, others, batch[:, 1:])
    semantic = torch.where(replaced[:, 0], codes[:, 0] + begin, batch[:, 0])
    return torch.cat([semantic[:, None], codes], dim=1)


def slow_half(model: Any, heard: Tensor) -> tuple[Tensor, Tensor]:
    """The slow transformer, by upstream's `forward`.

    Args:
        model: The transformers.
        heard: int64 (batch, 1 + codebooks, positions).

    Returns:
        Logits of every token and hidden states, float32 (batch, positions, tokens or dim).
    """
    # Without a mask upstream forces flash attention, which GPUs lack in float32.
    nothing = torch.zeros_like(heard[:, 0], dtype=torch.bool) if heard.is_cuda else None
    slow = BaseTransformer.forward(model, heard, nothing)
    return slow.logits, slow.hidden_states


def losses_of(
    model: Any,
    batch: Tensor,
    labels: Tensor,
    begin: int,
    wanted: settings.Llama,
    slow: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = slow_half,
) -> Losses:
    """Cross entropies of the next semantic token or the end, and of the residual codes.

    Args:
        model: The transformers.
        batch: int64 (batch, 1 + codebooks, positions).
        labels: int64 (batch, positions - 1), see `labels_of`.
        begin: Token of semantic code 0.
        wanted: Share of replaced codes, and of the frames that the fast transformer learns from.
        slow: `slow_half`, or another family's.
    """
    heard = corrupted(batch[:, :, :-1], begin, wanted.corrupted)
    tokens, hidden = slow(model, heard)
    semantic = F.cross_entropy(tokens.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
    chosen = labels >= begin
    chosen &= torch.rand(chosen.shape, device=chosen.device) < wanted.fast_share
    codes = batch[:, 1:, 1:].transpose(1, 2)[chosen]
    logits = fast_logits(model, hidden[chosen], codes)
    residual = F.cross_entropy(logits[:, 1:].flatten(0, 1), codes[:, 1:].flatten())
    return {"semantic": semantic, "residual": residual}


def fast_logits(model: Any, hidden: Tensor, codes: Tensor) -> Tensor:
    """Logits of every codebook, given those before it.

    Args:
        model: The transformers.
        hidden: Hidden states of the slow transformer, float32 (frames, dim).
        codes: int64 (frames, codebooks).

    Returns:
        float32 (frames, codebooks, codebook size).

    Source: `DualARTransformer.forward` and `decode_one_token_ar`, fish-speech 0.1.0.
    """
    count = model.config.num_codebooks
    known = model.fast_embeddings(codes[:, :-1])
    x = torch.cat([model.fast_project_in(hidden)[:, None], known], dim=1)
    mask = model.causal_mask[None, None, :count, :count]
    for layer in model.fast_layers:
        x = layer(x, model.fast_freqs_cis[:count], mask)
    return model.fast_output(model.fast_norm(x))


def compile_layers(model: Any) -> None:
    """Compile both transformers on a CPU, where a step then takes two thirds of the time."""
    if DEVICE.type == "cpu":
        for layer in (*model.layers, *model.fast_layers):
            layer.compile(dynamic=True)


def train_llama(wanted: settings.Llama, codes: Codes, folder: Path, deadline: Deadline) -> Trainer:
    """Train into `folder`, or go on there; see `Trainer.run`."""
    # The name holds the codes' digest, since weights learnt from other codes are of no use.
    trainer = Trainer(f"llama-{codes.digest}", new_llama(), wanted.optimiser, folder)
    model: Any = trainer.model
    compile_layers(model)
    torch.backends.cuda.matmul.allow_tf32 = True
    prompts = Prompts(codes, wanted, model.tokenizer)

    def losses(step: int) -> Losses:
        batch = prompts.batch(step).to(DEVICE)
        return losses_of(model, batch, prompts.labels(batch), prompts.begin, wanted)

    trainer.run(losses, deadline)
    return trainer
