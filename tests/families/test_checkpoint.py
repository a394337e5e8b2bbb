"""The strict loader: takes what upstream takes, and names everything that is wrong."""

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from families.fish_s1 import upstream
from families.fish_s1.checkpoint import load_checkpoint, load_codec, load_llama
from families.fish_s1.make_checkpoint import make_checkpoint
from families.registry import CheckpointError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_checkpoint("tiny", folder)
    return folder


@pytest.fixture
def broken(tiny, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def rewrite(folder, file, change):
    """Load a weights file, change it in place or return something else, and save it."""
    weights = torch.load(folder / file, weights_only=True)
    changed = change(weights)
    torch.save(weights if changed is None else changed, folder / file)


def split_qkv(weights):
    for name in [name for name in weights if name.endswith("wqkv.weight")]:
        head_dim = 32 if name.startswith("layers") else 16
        parts = weights.pop(name).split([4 * head_dim, 2 * head_dim, 2 * head_dim])
        for part, tensor in zip(("wq", "wk", "wv"), parts, strict=True):
            weights[name.replace("wqkv", part)] = tensor.clone()


def with_tables(weights):
    for name in ("quantizer.pre_module", "encoder.block.4.block.5"):
        weights[f"{name}.causal_mask"] = torch.ones(8, 8, dtype=torch.bool)
    weights["quantizer.pre_module.freqs_cis"] = upstream.codec_freqs_cis(2048, 32, 10000)


ACCEPTED = {
    "model. prefix": ("model.pth", lambda w: {f"model.{k}": v for k, v in w.items()}),
    "state_dict wrapper": ("model.pth", lambda w: {"state_dict": w}),
    "wq, wk, wv apart": ("model.pth", split_qkv),
    "audio_ tensors": ("model.pth", lambda w: w | {"audio_projector.weight": torch.ones(1)}),
    "codec state_dict wrapper": ("codec.pth", lambda w: {"state_dict": w}),
    "codec generator. prefix": (
        "codec.pth",
        lambda w: {f"generator.{k}": v for k, v in w.items()} | {"discriminator.x": torch.ones(1)},
    ),
    "codec tables": ("codec.pth", with_tables),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ACCEPTED)
def test_accepts_what_upstream_accepts(what, broken, tiny):
    file, _ = ACCEPTED[what]
    rewrite(broken, *ACCEPTED[what])
    plain, other = load_checkpoint(tiny), load_checkpoint(broken)
    assert plain.checkpoint_id != other.checkpoint_id
    load = {"model.pth": load_llama, "codec.pth": load_codec}[file]
    expected, found = load(plain).state_dict(), load(other).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_accepts_half_weights(dtype, broken):
    for file in ("model.pth", "codec.pth"):
        rewrite(broken, file, lambda w: {name: tensor.to(dtype) for name, tensor in w.items()})
    checkpoint = load_checkpoint(broken)
    assert load_llama(checkpoint).embeddings.weight.dtype == torch.float32
    codec = load_codec(checkpoint)
    assert {p.dtype for p in codec.parameters()} == {torch.float32}
    codec.decode(torch.zeros(1, 10, 2, dtype=torch.int64), torch.tensor([2]))


def test_special_tokens_as_a_list_and_a_path_with_int8(broken, tiny):
    file = broken / "special_tokens.json"
    file.write_text(json.dumps(list(json.loads(file.read_text()))))
    folder = broken.rename(broken.with_name("fish-int8"))
    checkpoint = load_checkpoint(folder)
    assert checkpoint.tokenizer.semantic_begin_id == 280 + 15 + 1
    expected = load_llama(load_checkpoint(tiny)).output.weight
    assert torch.equal(load_llama(checkpoint).output.weight, expected)


def test_id_follows_content_not_place(broken, tiny):
    original = load_checkpoint(tiny).checkpoint_id
    assert len(original) == 16 and int(original, 16)
    assert load_checkpoint(broken).checkpoint_id == original
    with (broken / "codec.yaml").open("a") as file:
        file.write("# a remark\n")
    assert load_checkpoint(broken).checkpoint_id != original


class Malice:
    """Pickles as a call that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def codec_yaml(folder, old, new):
    file = folder / "codec.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def without_token(folder, *tokens):
    file = folder / "special_tokens.json"
    left = {k: v for k, v in json.loads(file.read_text()).items() if k not in tokens}
    file.write_text(json.dumps(left))


def cut(folder, file, size):
    (folder / file).write_bytes((folder / file).read_bytes()[:size])


def drop(name):
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


def to_s2(folder):
    (folder / "model.pth").unlink()
    (folder / "model-00001-of-00002.safetensors").touch()


def to_fish_1_5(folder):
    (folder / "codec.pth").rename(folder / "firefly-gan-vq-fsq-8x1024-21hz-generator.pth")


def unlink(folder, *files):
    for file in files:
        (folder / file).unlink()


def int8(weights):
    return weights | {"output.weight": weights["output.weight"].to(torch.int8)}


FAULTS = {
    "no folder": (shutil.rmtree, "no such folder, expected one holding config.json"),
    "files missing": (
        lambda f: unlink(f, "codec.pth", "special_tokens.json"),
        r"codec\.pth, special_tokens\.json missing",
    ),
    "config not JSON": (lambda f: cut(f, "config.json", 20), r"config\.json: is not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "model_type None"),
    "model_type": (lambda f: config(f, model_type="llama"), "model_type 'llama', expected dual_ar"),
    "naive": (lambda f: config(f, model_type="naive"), "naive, without a fast transformer"),
    "unknown keys": (
        lambda f: config(f, norm_fastlayer_input=True, zzz=1),
        "2 unknown keys: norm_fastlayer_input, zzz",
    ),
    "S2 config": (lambda f: config(f, model_type="fish_qwen3_omni"), "a Fish-Speech S2 checkpoint"),
    "S2 shards": (to_s2, r"S2 checkpoint \(\*\.safetensors\)"),
    "1.5": (to_fish_1_5, r"1\.4 or 1\.5 checkpoint \(firefly-gan-vq-fsq"),
    "heads": (
        lambda f: config(f, n_local_heads=3),
        r"\(\(4, 3\), \(4, 2\)\), expected n_head to be a multiple",
    ),
    "text for a number": (lambda f: config(f, dim="64"), "upstream cannot build this model"),
    "max_seq_len odd": (lambda f: config(f, max_seq_len=4097), "4097, expected a multiple of 8"),
    "max_seq_len short": (lambda f: config(f, max_seq_len=2048), "multiple of 8 above 2048"),
    "model cut": (
        lambda f: cut(f, "model.pth", 500_000),
        r"model\.pth: 500000 bytes, cut short or not",
    ),
    "codec cut": (
        lambda f: cut(f, "codec.pth", 500_000),
        r"codec\.pth: 500000 bytes, cut short or not",
    ),
    "model empty": (lambda f: cut(f, "model.pth", 0), r"model\.pth: 0 bytes, cut short or not"),
    "model a text": (
        lambda f: (f / "model.pth").write_text("<html>"),
        r"model\.pth: 6 bytes, cut short or not",
    ),
    "LFS pointer": (
        lambda f: (f / "codec.pth").write_text("version https://git-lfs.github.com/spec/v1\n"),
        r"codec\.pth: is a Git LFS pointer.*git lfs pull",
    ),
    "code in a pickle": (
        lambda f: rewrite(f, "model.pth", lambda w: w | {"x": Malice(f / "written")}),
        r"model\.pth: asks to call \S+, expected tensors only.*never run",
    ),
    "not tensors": (
        lambda f: rewrite(f, "codec.pth", lambda w: {"step": 1}),
        r"codec\.pth: holds int, expected tensors",
    ),
    "int8 weights": (
        lambda f: rewrite(f, "model.pth", int8),
        r"integer weights \(output\.weight\)",
    ),
    "tensor missing": (
        lambda f: rewrite(f, "model.pth", drop("fast_output.weight")),
        r"model\.pth: .*1 missing: fast_output\.weight",
    ),
    "tensor unexpected": (
        lambda f: rewrite(f, "model.pth", lambda w: w | {"lora_A": torch.ones(1)}),
        r"1 unexpected: lora_A",
    ),
    "shapes": (
        lambda f: config(f, vocab_size=400),
        r"2 of another shape: embeddings\.weight \(362, 64\) instead of \(400, 64\), output",
    ),
    "many shapes": (lambda f: config(f, dim=128), r"18 of another shape: .* and 13 more"),
    "codec tensor missing": (
        lambda f: rewrite(f, "codec.pth", drop("quantizer.pre_module.norm.weight")),
        r"codec\.pth: .*1 missing: quantizer\.pre_module\.norm\.weight",
    ),
    "vocabulary": (
        lambda f: config(f, vocab_size=350),
        "vocab_size 350, but the tokenizer has 360",
    ),
    "no im_end": (lambda f: without_token(f, "<|im_end|>"), r"1 tokens missing: <\|im_end\|>"),
    "no interleave": (
        lambda f: without_token(f, "<|interleave|>"),
        r"1 tokens missing: <\|interleave\|>",
    ),
    "no semantic": (
        lambda f: without_token(f, *(f"<|semantic:{i}|>" for i in range(7, 64))),
        r"57 tokens missing: <\|semantic:7\|>, .* and 52 more",
    ),
    "special tokens a number": (
        lambda f: (f / "special_tokens.json").write_text("3"),
        "special_tokens.json: got int, expected an object",
    ),
    "tokenizer damaged": (
        lambda f: (f / "tokenizer.tiktoken").write_text("aGk=\n"),
        r"tokenizer\.tiktoken: cannot be read",
    ),
    "codebooks": (
        lambda f: codec_yaml(f, "n_codebooks: 9", "n_codebooks: 8"),
        "9 codebooks, but config.json has num_codebooks 10",
    ),
    "codebook size": (
        lambda f: codec_yaml(f, "semantic_codebook_size: 64", "semantic_codebook_size: 32"),
        "32 semantic and 64 residual codes, but config.json has codebook_size 64",
    ),
    "codec.yaml not YAML": (
        lambda f: codec_yaml(f, "quantizer:", "{"),
        r"codec\.yaml: is not YAML",
    ),
    "codec.yaml calls": (
        lambda f: codec_yaml(f, "fish_speech.models.dac.rvq.Down", "os.system.Down"),
        r"codec\.yaml: asks to call os\.system\.Down",
    ),
    "codec.yaml keys": (
        lambda f: codec_yaml(f, "encoder_dim:", "encoder_dimension:"),
        r"codec\.yaml: upstream cannot build this codec",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_own_message(fault, broken):
    spoil, message = FAULTS[fault]
    spoil(broken)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(broken)
    assert not (broken / "written").exists(), "code in a checkpoint must not run"
