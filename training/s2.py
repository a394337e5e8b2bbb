"""Trains the demo voice on in S2's format: genuine S2 prompts, and S2's network.

The start is the trained demo voice. Its layers stay as they are; what the formats have differently
is brought over so that speech goes on as before (`warm_start`), and the training makes it read
S2's chat, and hear two voices in one.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from engine.codec.encoder import EncoderGraph
from engine.codec.memory import keep_memory
from engine.codec.quantizer import quantizers
from ensemble.contract.facts import Facts
from ensemble.contract.voice import Reference
from families.fish_s1 import demo
from families.fish_s1.codec import CODEC_CONFIG, empty_codec, fill_codec
from families.fish_s1.weights import read_codec, read_llama
from families.fish_s2.checkpoint import empty_model
from families.fish_s2.make_checkpoint import write_description
from families.fish_s2.presets import PRESETS
from families.fish_s2.prompt import PromptBuilder
from families.fish_s2.reference import S2Transformer
from training import settings
from training.codes import Codes, save_codes
from training.device import DEVICE
from training.llama import compile_layers, demo_tokenizer, labels_of, losses_of, padded
from training.loop import Deadline, Losses, Trainer
from training.speech import Corpus, at_44100_hz, make_corpus

_CHUNK_FRAMES = 256  # frames that are encoded at a time: 12 s


class Prompts:
    """Sequences as they are served: S2's prompt, and behind it the speech that it asks for."""

    def __init__(self, codes: Codes, wanted: settings.S2, builder: PromptBuilder) -> None:
        self.codes, self.wanted, self.builder = codes, wanted, builder
        self.begin, self.end = builder.facts.semantic_begin_id, builder.facts.im_end_id

    def sequence(self, chance: np.random.Generator) -> np.ndarray:
        """One sequence, int32 (1 + codebooks, positions): a voice alone, or two in turn."""
        count = 2 if chance.random() < self.wanted.dialogues else 1
        turns = int(chance.integers(2, 1 + self.wanted.turns)) if count == 2 else 1
        voices = chance.choice(len(self.codes.by_voice), count, replace=False)
        drawn = [iter(chance.permutation(self.codes.by_voice[voice])) for voice in voices]
        known = [(speaker, next(drawn[speaker])) for speaker in range(count)]
        first = int(chance.integers(count))
        spoken = [(speaker, next(drawn[speaker]))
                  for speaker in ((first + turn) % count for turn in range(turns))]  # fmt: skip
        if count == 1 and chance.random() < self.wanted.unknown:
            known = []
        voice = [Reference(self._turn(*said), self.codes[said[1]]) for said in known]
        text = "\n".join(self._turn(*said) for said in spoken)
        prompt, _ = self.builder.build(text, voice)
        speech = np.concatenate([self.codes[number] for _, number in spoken], axis=1)
        end = self.builder.tokens([self.end])
        return np.concatenate([prompt, self.builder.codes(speech), end], axis=1)

    def batch(self, step: int) -> Tensor:
        """The sequences of a step, int64 (batch, 1 + codebooks, positions), padded with the end."""
        chance = np.random.default_rng((13, step))
        count = self.wanted.llama.batch
        return padded([self.sequence(chance) for _ in range(count)], self.end)

    def _turn(self, speaker: int, utterance: int) -> str:
        return f"<|speaker:{speaker}|>{self.codes.utterances[utterance].text}"


def described(folder: Path) -> PromptBuilder:
    """Write all but the weights of a checkpoint; its prompt builder."""
    write_description(PRESETS["s2-demo"], folder)
    model: Any = empty_model(folder)
    config, tokenizer = model.config, model.tokenizer
    codec: Any = empty_codec(folder / CODEC_CONFIG)
    sizes = tuple(int(q.codebook_size) for q in quantizers(codec))
    Facts(
        family="fish_s2", checkpoint_id="", sample_rate=int(codec.sample_rate),
        samples_per_frame=int(codec.frame_length), codebook_sizes=sizes, max_frames=2048,
        max_reference_frames=2048, history_frames=0, vocab_size=config.vocab_size,
        max_seq_len=config.max_seq_len, semantic_begin_id=tokenizer.semantic_begin_id,
        num_semantic=config.codebook_size, im_end_id=tokenizer.im_end_id, full_vocabulary=False,
        num_layers=config.n_layer, num_kv_heads=config.n_local_heads, head_dim=config.head_dim,
    ).save(folder)  # fmt: skip
    return PromptBuilder(folder)


def new_model(folder: Path) -> S2Transformer:
    """The transformers before training, on a checkpoint's description."""
    empty: Any = empty_model(folder)
    torch.manual_seed(0)
    model = S2Transformer(empty.config, empty.tokenizer).train()
    warm_start(model, read_llama(demo.WEIGHTS / "model.pth"))
    return model


@torch.no_grad()
def warm_start(model: Any, trained: dict[str, Tensor]) -> None:
    """Take over the demo voice's weights, so that it hears and makes speech as before.

    S2's output is its embedding, and the sum of a frame's embeddings is divided. A frame's first
    code says the same as its token: so the token's embedding becomes the output's, and the first
    codebook's makes up for that.

    Args:
        model: An `S2Transformer` of the demo voice's shape.
        trained: The demo voice's weights, under upstream's names.
    """
    old, config = demo_tokenizer(), model.config
    begin, size, books = old.semantic_begin_id, config.codebook_size, config.num_codebooks
    semantic = slice(model.tokenizer.semantic_begin_id, model.tokenizer.semantic_end_id + 1)
    output, embeddings = trained["output.weight"], trained["embeddings.weight"]
    heads, inputs = output[begin : begin + size], embeddings[begin : begin + size]
    weights = model.state_dict()
    own = {"embeddings.weight", "codebook_embeddings.weight"}
    for name in weights.keys() & trained.keys() - own:
        weights[name].copy_(trained[name])
    into = weights["embeddings.weight"]
    into.normal_(0, float(embeddings.std()))
    into[: demo.TEXT_TOKENS] = embeddings[: demo.TEXT_TOKENS]
    into[semantic] = heads
    into[model.tokenizer.im_end_id] = output[old.get_token_id("<|im_end|>")]
    codes = trained["codebook_embeddings.weight"].clone()
    codes[:size] += inputs
    codes *= (1 + books) ** 0.5
    codes[:size] -= heads
    weights["codebook_embeddings.weight"].copy_(codes)


@torch.no_grad()
def scale_fast_input(model: Any, batch: Tensor, begin: int) -> None:
    """Make up for the final norm, behind which S2's fast transformer is fed, on average.

    Args:
        model: An `S2Transformer` with the weights of one that was fed before the norm.
        batch: int64 (batch, 1 + codebooks, positions), to measure with.
        begin: Token of semantic code 0.
    """
    states: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    slow_half(model, batch)
    hook.remove()
    spoken = states[0][batch[:, 0] >= begin]
    size = spoken.square().mean(1).sqrt().mean()
    model.fast_project_in.weight.mul_(size / model.norm.weight)


def slow_half(model: Any, heard: Tensor) -> tuple[Tensor, Tensor]:
    """The slow transformer; see `training.llama.slow_half`.

    Source: `BaseTransformer.forward_generate`, fish-speech 0.1.0, and `S2Transformer`. Its
    `forward` does not divide the sum of a frame's embeddings.
    """
    tokens, config = heard[:, 0], model.config
    first, last = model.tokenizer.semantic_begin_id, model.tokenizer.semantic_end_id
    is_speech = ((tokens >= first) & (tokens <= last))[..., None]
    offsets = config.codebook_size * torch.arange(config.num_codebooks, device=heard.device)
    codes = model.codebook_embeddings(heard[:, 1:] + offsets[:, None]).sum(1)
    x = model.embeddings(tokens)
    x = torch.where(is_speech, (x + codes) / (1 + config.num_codebooks) ** 0.5, x)
    mask = None
    if heard.is_cuda:  # without a mask upstream forces flash attention, which lacks float32
        mask = model.causal_mask[None, None, : tokens.shape[1], : tokens.shape[1]]
    for layer in model.layers:
        x = layer(x, model.freqs_cis[: tokens.shape[1]], mask)
    hidden = model.norm(x)
    logits = hidden @ model.embeddings.weight.T
    # No text is ever chosen, so none is learnt not to be.
    unsaid = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    unsaid[first : last + 1] = unsaid[model.tokenizer.im_end_id] = False
    return logits.masked_fill(unsaid, float("-inf")), hidden


@torch.inference_mode()
def heard(corpus: Corpus, codec: Any, folder: Path) -> Codes:
    """The corpus in the codes that the trained codec's encoder hears, encoded once."""
    path = folder / "codes-heard.npz"
    if not path.is_file():
        encoder, found, starts = EncoderGraph(codec).to(DEVICE), [], [0]
        for utterance in track(corpus.utterances, "codes"):
            spoken = corpus.samples[utterance.start : utterance.start + utterance.length]
            waveform = torch.from_numpy(at_44100_hz(spoken)).to(DEVICE)
            codes = encoder(waveform[None], torch.tensor([[_CHUNK_FRAMES]], device=DEVICE))
            found.append(codes[0].cpu().numpy())
            starts.append(starts[-1] + found[-1].shape[1])
        save_codes(np.concatenate(found, axis=1), starts, path)
    return Codes(corpus, path)


def train_s2(wanted: settings.S2, folder: Path, deadline: Deadline) -> Trainer:
    """Train into `folder`, or go on there; see `Trainer.run`."""
    folder.mkdir(parents=True, exist_ok=True)
    keep_memory()  # without it a quarter of the time goes into new pages
    with tempfile.TemporaryDirectory() as described_in:
        builder = described(Path(described_in))
        model = new_model(Path(described_in))
        codec = empty_codec(Path(described_in) / CODEC_CONFIG)
    codec = fill_codec(codec, read_codec(demo.WEIGHTS / "codec.pth"))
    codes = heard(make_corpus(wanted.data, folder), codec, folder)
    prompts = Prompts(codes, wanted, builder)
    scale_fast_input(model, prompts.batch(0), prompts.begin)
    trainer = Trainer("llama-s2", model, wanted.llama.optimiser, folder)
    trained: Any = trainer.model
    compile_layers(trained)

    def losses(step: int) -> Losses:
        batch = prompts.batch(step).to(DEVICE)
        labels = labels_of(batch, prompts.begin)
        return losses_of(trained, batch, labels, prompts.begin, wanted.llama, slow_half)

    trainer.run(losses, deadline)
    return trainer
