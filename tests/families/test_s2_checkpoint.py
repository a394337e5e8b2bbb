"""The strict loader of S2's format: what it takes, and a message of its own for every fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from families.fish_s2.checkpoint import load_checkpoint, load_llama, stored_dtype
from families.fish_s2.safetensors import INDEX, SINGLE, Writer, read_file, read_indexed
from families.fish_s2.weights import read_weights
from families.registry import CheckpointError

FIRST = "model-00001-of-00002.safetensors"
Tensors = dict[str, Any]


@pytest.fixture
def broken(s2_tiny, tmp_path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(s2_tiny, tmp_path / "broken"))


def single(folder: Path, change: Callable[[Tensors], Tensors] = lambda t: t) -> None:
    """Put all tensors, changed, into one file."""
    tensors = change(read_indexed(folder))
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink()
    write(folder / SINGLE, tensors)


def write(path: Path, tensors: Tensors) -> None:
    writer = Writer(path, {n: tuple(t.shape) for n, t in tensors.items()}, torch.bfloat16)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()


def edited(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """A fault in a JSON file."""

    def spoil(folder: Path) -> None:
        values = json.loads((folder / file).read_text("utf-8"))
        change(values)
        (folder / file).write_text(json.dumps(values), "utf-8")

    return spoil


def config(part: str = "", **values: Any) -> Callable[[Path], None]:
    return edited("config.json", lambda c: (c[part] if part else c).update(values))


def header(folder: Path, change: Callable[[Any], None]) -> None:
    """Edit a shard's header in place, its length kept."""
    path = folder / FIRST
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    values = json.loads(data[8 : 8 + length])
    change(values)
    text = json.dumps(values).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def quantised(values: Any) -> None:
    next(v for n, v in values.items() if n.endswith("wqkv.weight"))["dtype"] = "I8"


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda f: (f / file).write_bytes((f / file).read_bytes()[:size]) and None


def with_foreign(folder: Path) -> None:
    single(folder, lambda t: t | {"vision.patch.weight": torch.ones(2, 2)})


def with_unexpected(folder: Path) -> None:
    single(folder, lambda t: t | {"audio_decoder.lora_A": torch.ones(2, 2)})


def without(name: str) -> Callable[[Path], None]:
    return lambda f: single(f, lambda t: {n: v for n, v in t.items() if n != name})


def drop_token(name: str) -> Callable[[Path], None]:
    def change(values: Any) -> None:
        values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != name]

    return edited("tokenizer.json", change)


NORM = "text_model.model.norm.weight"
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, r"no such folder, expected one holding config\.json"),
    "files missing": (
        lambda f: [(f / n).unlink() for n in ("codec.pth", "tokenizer.json")] and None,
        r"codec\.pth, tokenizer\.json missing",
    ),
    "no weights": (
        lambda f: [p.unlink() for p in f.glob("model*")] and None,
        r"model\.safetensors\.index\.json \(or model\.safetensors\) missing",
    ),
    "shard missing": (
        lambda f: (f / FIRST).unlink(),
        rf"1 of 2 shards missing: {FIRST}\. Download all",
    ),
    "shard cut": (cut(FIRST, 100_000), "cut short or not a safetensors file.*too few for"),
    "shard empty": (cut(FIRST, 0), r"cut short or not a safetensors file \(0 bytes\)"),
    "shard a text": (
        lambda f: (f / FIRST).write_text("<html>no such file</html>") and None,
        "cut short or not a safetensors file",
    ),
    "LFS pointer": (
        lambda f: (f / FIRST).write_text("version https://git-lfs.github.com/spec/v1\n") and None,
        f"{FIRST}: is a Git LFS pointer.*git lfs pull",
    ),
    "index LFS pointer": (
        lambda f: (f / INDEX).write_text("version https://git-lfs.github.com/spec/v1\n") and None,
        f"{INDEX}: is a Git LFS pointer",
    ),
    "index damaged": (cut(INDEX, 30), "has no weight_map"),
    "index elsewhere": (
        edited(INDEX, lambda v: v["weight_map"].update({NORM: "../x.safetensors"})),
        r"names \.\./x\.safetensors, expected files of its own folder",
    ),
    "index wrong": (
        edited(INDEX, lambda v: v["weight_map"].update({"text_model.model.x": FIRST})),
        rf"{FIRST}: does not hold the tensors that {INDEX} says: text_model\.model\.x",
    ),
    "quantised": (
        lambda f: header(f, quantised),
        r"holds quantised or integer weights \(I8: .*wqkv\.weight\).*before quantisation",
    ),
    "foreign names": (with_foreign, r"1 tensors have foreign names: vision\.patch\.weight"),
    "tensor unexpected": (with_unexpected, "1 unexpected: fast_lora_A"),
    "tensor missing": (without(NORM), rf"1 missing: {NORM}"),
    "shapes": (
        config("text_config", intermediate_size=80),
        r"6 of another shape: text_model\.model\.layers\.0\.feed_forward\.w1\.weight \(96, 64\) "
        r"instead of \(80, 64\)",
    ),
    "config not JSON": (cut("config.json", 20), r"config\.json: is not JSON"),
    "model_type": (config(model_type="dual_ar"), "'dual_ar', expected fish_qwen3_omni"),
    "config flat": (
        edited("config.json", lambda c: c.pop("text_config")),
        "text_config is None, expected an object",
    ),
    "unknown keys": (
        config("text_config", rope_scaling={"type": "yarn"}, zzz=1),
        r"2 unknown keys: text_config\.rope_scaling, text_config\.zzz",
    ),
    "experts": (config("text_config", use_moe=True), "use_moe is True, expected false"),
    "untied": (
        config("text_config", tie_word_embeddings=False),
        "tie_word_embeddings is False, expected true",
    ),
    "text_dim": (config("audio_decoder_config", text_dim=32), r"text_dim is 32, .* 64"),
    "text for a number": (config("text_config", dim="64"), "dim is '64', expected a whole number"),
    "a flag for a number": (config("text_config", dim=True), "dim is True, expected a whole"),
    "number for a flag": (
        config("text_config", attention_qk_norm=1),
        "attention_qk_norm is 1, expected true or false",
    ),
    "heads": (config("text_config", n_local_heads=3), "n_local_heads is 3, expected a divisor"),
    "odd heads": (config("text_config", head_dim=15), "head_dim is 15, expected an even"),
    "no codebooks": (
        edited("config.json", lambda c: c["audio_decoder_config"].pop("num_codebooks")),
        "num_codebooks is None, expected a whole number",
    ),
    "max_seq_len": (config("text_config", max_seq_len=2048), "multiple of 8 above 2048"),
    "semantic range stated": (
        config(semantic_start_token_id=300),
        r"semantic_start_token_id 300, but in tokenizer\.json it is 315",
    ),
    "semantic range": (drop_token("<|semantic:63|>"), "63 semantic tokens, but .* 64"),
    "semantic hole": (drop_token("<|semantic:9|>"), "its 63 semantic tokens are not"),
    "no im_end": (drop_token("<|im_end|>"), r"lacks <\|im_end\|>"),
    "vocabulary": (config("text_config", vocab_size=370), "vocab_size 370, but .* up to 378"),
    "tokenizer not JSON": (cut("tokenizer.json", 100), r"tokenizer\.json: is not JSON"),
    "tokenizer of another kind": (
        edited("tokenizer.json", lambda v: v["model"].update(type="Unigram")),
        "model is Unigram, expected a byte-level BPE",
    ),
    "tokenizer laid out otherwise": (
        edited("tokenizer.json", lambda v: v.pop("pre_tokenizer")),
        "is not laid out as a byte-level BPE",
    ),
    "pattern": (
        edited("tokenizer.json", lambda v: v["pre_tokenizer"]["pretokenizers"].pop(0)),
        r"cuts text by \['ByteLevel'\], expected one Split",
    ),
    "normalizer": (
        edited("tokenizer.json", lambda v: v.update(normalizer={"type": "Lowercase"})),
        r"normalizes text by \['Lowercase'\], expected NFC",
    ),
    "merges": (
        edited("tokenizer.json", lambda v: v["model"]["merges"].reverse()),
        "merges are not in the order of their ids",
    ),
    "codec": (
        lambda f: (f / "codec.pth").write_bytes(b"no codec") and None,
        r"codec\.pth: 8 bytes, cut short",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_own_message(fault, broken) -> None:
    spoil, message = FAULTS[fault]
    spoil(broken)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(broken)


def test_what_transformers_writes_into_any_config_is_taken(s2_tiny, broken) -> None:
    general = {"return_dict": True, "id2label": {"0": "LABEL_0"}, "transformers_version": "5.1.0"}
    for part in ("", "text_config", "audio_decoder_config"):
        config(part, **general)(broken)
    assert load_checkpoint(broken).config == load_checkpoint(s2_tiny).config


@pytest.mark.slow
def test_one_file_and_a_state_dict_are_the_same_model(s2_tiny, broken) -> None:
    expected = load_llama(load_checkpoint(s2_tiny)).state_dict()
    assert stored_dtype(load_checkpoint(s2_tiny)) == torch.bfloat16
    single(broken)
    assert _equal(load_llama(load_checkpoint(broken)).state_dict(), expected)
    torch.save(
        {f"model.{name}": tensor.clone() for name, tensor in read_weights(broken).items()},
        broken / "model.pth",
    )
    (broken / SINGLE).unlink()
    assert _equal(load_llama(load_checkpoint(broken)).state_dict(), expected)


@pytest.mark.slow
def test_queries_keys_and_values_apart_are_joined(s2_tiny, broken) -> None:
    def apart(tensors: Tensors) -> Tensors:
        for name in [n for n in tensors if n.endswith("wqkv.weight")]:
            for part, tensor in zip("qkv", tensors.pop(name).split([128, 32, 32]), strict=True):
                tensors[name.replace("wqkv", f"w{part}")] = tensor
        return tensors

    single(broken, apart)
    expected = load_llama(load_checkpoint(s2_tiny)).state_dict()
    assert _equal(load_llama(load_checkpoint(broken)).state_dict(), expected)


def _equal(got: Tensors, expected: Tensors) -> bool:
    return got.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) for name, tensor in got.items()
    )


def test_a_fast_transformer_of_another_width_is_projected_to(s2_tiny, broken) -> None:
    def narrow(tensors: Tensors) -> Tensors:
        kept = {n: t for n, t in tensors.items() if not n.startswith("audio_decoder.")}
        name = "audio_decoder.codebook_embeddings.weight"
        made: Tensors = {
            name: tensors[name],
            "audio_decoder.embeddings.weight": torch.ones(64, 32),
            "audio_decoder.project_in.weight": torch.ones(32, 64),
            "audio_decoder.project_in.bias": torch.ones(32),
            "audio_decoder.norm.weight": torch.ones(32),
            "audio_decoder.output.weight": torch.ones(64, 32),
        }
        for i in range(2):
            layer = f"audio_decoder.layers.{i}"
            for part, shape in (
                ("attention.wqkv", (192, 32)), ("attention.wo", (32, 128)),
                ("feed_forward.w1", (96, 32)), ("feed_forward.w3", (96, 32)),
                ("feed_forward.w2", (32, 96)), ("attention_norm", (32,)), ("ffn_norm", (32,)),
            ):  # fmt: skip
                made[f"{layer}.{part}.weight"] = torch.ones(shape)
        return kept | made

    single(broken, narrow)
    config("audio_decoder_config", dim=32)(broken)
    model = load_llama(load_checkpoint(broken))
    assert tuple(model.fast_project_in.weight.shape) == (32, 64)


def test_weights_are_mapped_not_read(s2_tiny) -> None:
    tensors = read_file(s2_tiny / FIRST)
    assert tensors and str(s2_tiny / FIRST) in Path("/proc/self/maps").read_text("utf-8")
