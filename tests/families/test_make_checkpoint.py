"""What `make-checkpoint` writes: the genuine loaders take it, and ours gives the same models."""

import functools
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

from families.fish_s1 import make_checkpoint as maker
from families.fish_s1 import upstream
from families.fish_s1.checkpoint import load_checkpoint, load_codec, load_llama
from families.fish_s1.codec_config import build_codec, packaged_config
from families.fish_s1.presets import PRESETS
from families.registry import CheckpointError

TINY = [
    name if name == "tiny" else pytest.param(name, marks=pytest.mark.long)
    for name in PRESETS
    if name.startswith("tiny")
]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a tiny preset, seed 0."""
    root = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def folder(name):
        maker.make_checkpoint(name, root / name)
        return root / name

    return folder


def genuine_llama(folder):
    model = upstream.DualARTransformer.from_pretrained(str(folder), load_weights=True)
    return model.eval()


def genuine_codec(folder):
    """As upstream's `load_model`, whose module cannot be imported from an installed package."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(folder), version_base="1.3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codec = instantiate(compose("codec"))
    weights = torch.load(folder / "codec.pth", map_location="cpu", mmap=True, weights_only=True)
    result = codec.load_state_dict(weights, strict=False, assign=True)
    assert {name.rsplit(".", 1)[1] for name in result.missing_keys} <= {"freqs_cis", "causal_mask"}
    assert not result.unexpected_keys
    return codec.eval()


@pytest.fixture(scope="module", params=TINY)
def genuine(request, folder_of):
    return request.param, genuine_llama(folder_of(request.param))


def speak(model, text="Hello, this is a test.", seed=0, voice=(), limit=300):
    """Codes (codebooks, frames) from upstream's own `generate_long` at its defaults."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = upstream.generate_long(
            model=model,
            device="cpu",
            decode_one_token=upstream.decode_one_token_ar,
            text=text,
            max_new_tokens=limit,
            prompt_text=["A reference."] * len(voice),
            prompt_tokens=list(voice),
        )
        codes = next(result).codes
    assert codes is not None
    return codes


def test_genuine_loader_generates_and_ends(genuine):
    _, model = genuine
    codes = [speak(model, seed=seed) for seed in range(2)]
    books = model.config.num_codebooks
    for each in codes:
        assert each.shape[0] == books
        assert 2 <= each.shape[1] < 200, "the end comes at random, not never"
        assert each.max() < 64
    assert sum(each.shape[1] for each in codes) > 20
    assert len(set(codes[0][0].tolist())) > 5


@pytest.mark.long
def test_endless_speech_ends_at_the_limit_alone(tmp_path):
    maker.make_checkpoint("tiny", tmp_path / "endless", endless=True)
    model = genuine_llama(tmp_path / "endless")
    for seed, limit in ((0, 200), (1, 60), (2, 60)):  # upstream drops the last frame
        assert speak(model, seed=seed, limit=limit).shape[1] == limit - 1


def test_codes_depend_on_text_seed_and_voice(genuine):
    _, model = genuine
    books = model.config.num_codebooks
    voices = [torch.randint(0, 64, (books, 30), generator=torch.manual_seed(s)) for s in (1, 2)]
    spoken = [
        speak(model, limit=12),
        speak(model, limit=12, text="Something else altogether."),
        speak(model, limit=12, seed=1),
        speak(model, limit=12, voice=voices[:1]),
        speak(model, limit=12, voice=voices[1:]),
    ]
    assert len({str(codes.tolist()) for codes in spoken}) == len(spoken)
    assert torch.equal(spoken[0], speak(model, limit=12))


def test_our_llama_equals_the_genuine_one(genuine, folder_of):
    name, model = genuine
    ours = load_llama(load_checkpoint(folder_of(name)))
    assert not ours.training
    theirs = dict(model.named_parameters())
    assert dict(ours.named_parameters()).keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.named_parameters())
    for table in ("freqs_cis", "fast_freqs_cis", "causal_mask"):
        assert torch.equal(getattr(ours, table).float(), getattr(model, table).float()), table
    assert torch.equal(speak(ours, limit=20), speak(model, limit=20))


@pytest.mark.parametrize("name", ["tiny", "tiny-8books"])
def test_our_codec_equals_the_genuine_one(folder_of, name):
    ours, theirs = load_codec(load_checkpoint(folder_of(name))), genuine_codec(folder_of(name))
    books = 8 if name == "tiny-8books" else 10
    codes = torch.randint(0, 64, (2, books, 40), generator=torch.manual_seed(0))
    lengths = torch.tensor([40, 40])
    with torch.inference_mode():
        audio, samples = ours.decode(codes, lengths)
        assert torch.equal(audio, theirs.decode(codes, lengths)[0])
        assert audio.shape == (2, 1, 40 * 2048) and samples.tolist() == [40 * 2048] * 2
        assert audio.square().mean().sqrt() > 0.02
        assert audio.abs().max() < 1
        heard, frames = ours.encode(audio, samples)
        assert torch.equal(heard, theirs.encode(audio, samples)[0])
    assert heard.shape == (2, books, 40) and frames.tolist() == [40, 40]
    assert all(len(set(heard[0, book].tolist())) > 5 for book in range(books))


def test_codec_decodes_over_a_thousand_frames(folder_of):
    codec = load_codec(load_checkpoint(folder_of("tiny")))
    with torch.inference_mode():
        audio, _ = codec.decode(torch.zeros(1, 10, 1100, dtype=torch.int64), torch.tensor([1100]))
    assert audio.shape[-1] == 1100 * 2048


def test_bfloat16_equals_the_genuine_model_cast(folder_of):
    ours = load_llama(load_checkpoint(folder_of("tiny")), torch.bfloat16)
    theirs = genuine_llama(folder_of("tiny")).to(torch.bfloat16)
    assert torch.equal(speak(ours, limit=8), speak(theirs, limit=8))


def test_shorter_tables_give_the_same_codes(folder_of):
    checkpoint = load_checkpoint(folder_of("tiny"))
    short = load_llama(checkpoint, max_seq_len=2304)
    assert short.causal_mask.shape == (2304, 2304)
    assert short.config.max_seq_len == 2304 and checkpoint.config.max_seq_len == 4096
    assert torch.equal(speak(short, limit=12), speak(load_llama(checkpoint), limit=12))
    with pytest.raises(CheckpointError, match="max_seq_len: got 100, expected a multiple of 8"):
        load_llama(checkpoint, max_seq_len=100)


@pytest.mark.parametrize("name", TINY)
def test_tiny_is_small(folder_of, name):
    assert sum(file.stat().st_size for file in folder_of(name).iterdir()) < 10e6


def test_s1mini_has_the_real_shape(tmp_path):
    preset = PRESETS["s1mini"]
    maker.write_tokenizer(preset, tmp_path)
    tokenizer = upstream.FishTokenizer.from_pretrained(str(tmp_path))
    assert (tokenizer.semantic_begin_id, tokenizer.semantic_end_id) == (151678, 155773)
    assert tokenizer.get_token_id("<|im_end|>") == 151647
    assert tokenizer.decode(tokenizer.encode("Où ça? 안녕 <|speaker:0|>")) == (
        "Où ça? 안녕 <|speaker:0|>"
    )
    with torch.device("meta"):
        config = upstream.DualARModelArgs(**preset.llama)
        llama = upstream.DualARTransformer(config, tokenizer)  # pyright: ignore[reportArgumentType]
    assert sum(p.numel() for p in llama.parameters()) == 860_169_216
    codec = build_codec(packaged_config())
    assert sum(p.numel() for p in codec.parameters()) == 391_430_530


def test_seed_decides(folder_of, tmp_path):
    maker.make_checkpoint("tiny", tmp_path / "same")
    maker.make_checkpoint("tiny", tmp_path / "other", seed=1)
    ids = [load_checkpoint(p).checkpoint_id for p in (tmp_path / "same", tmp_path / "other")]
    assert ids[0] == load_checkpoint(folder_of("tiny")).checkpoint_id != ids[1]


def test_command_refuses_then_replaces(tmp_path):
    from typer.testing import CliRunner

    from export.__main__ import app

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    command = ["make-checkpoint", "tiny", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code != 0 and "not empty. Replace it with --force" in str(refused.exception)
    assert (tmp_path / "out" / "precious").exists()
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert load_checkpoint(tmp_path / "out") and not (tmp_path / "out" / "precious").exists()
    with pytest.raises(CheckpointError, match="got 'nonesuch', expected s1mini, tiny"):
        maker.make_checkpoint("nonesuch", tmp_path / "new")


def test_all_or_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(maker, "random_codec", full_disk)
    with pytest.raises(OSError, match="No space left"):
        maker.make_checkpoint("tiny", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_trained_weights_are_expanded(tmp_path) -> None:
    """The demo voice's way: few bits in, a checkpoint that the genuine loaders take out."""
    from training.codec import new_codec
    from training.llama import new_llama
    from training.stages import save_codec, save_llama

    codec, llama = new_codec(seed=3), new_llama()
    weights, out = tmp_path / "weights", tmp_path / "checkpoint"
    weights.mkdir()
    save_codec(codec, weights)
    save_llama(llama, weights)
    assert sum(file.stat().st_size for file in weights.iterdir()) < 16e6
    maker.make_checkpoint("demo", out, weights=weights)
    for trained, loaded in ((llama, genuine_llama(out)), (codec, genuine_codec(out))):
        found = dict(loaded.named_parameters())
        for name, tensor in trained.named_parameters():
            assert found[name].dtype == torch.float32
            if trained is codec or tensor.ndim == 1:
                assert torch.equal(found[name], tensor.detach().half().float()), name
            else:  # 8 bits: half a step of each row's
                limit = 0.501 / 127 * tensor.detach().abs().amax(1, keepdim=True)
                assert torch.all((found[name] - tensor).abs() <= limit), name


def test_untrained_demo_is_not_passed_off(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained weights"):
        maker.make_checkpoint("demo", tmp_path / "out", weights=tmp_path)
    assert not (tmp_path / "out").exists()
