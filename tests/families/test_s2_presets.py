"""The presets of S2 checkpoints: S2-Pro's shape without its weights, the demo voice, refusals."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from families.fish_s1 import demo
from families.fish_s1.weights import read_codec, read_llama
from families.fish_s2.checkpoint import empty_model, load_checkpoint, load_llama
from families.fish_s2.make_checkpoint import _write_config, _write_tokenizer, make_checkpoint
from families.fish_s2.presets import PRESETS, WEIGHTS
from families.registry import CheckpointError, family_of, family_with_preset
from families.speech import speech_facts


@pytest.mark.slow
def test_the_true_shape_has_the_published_number_of_parameters(tmp_path) -> None:
    ids = _write_tokenizer(PRESETS["s2-pro"], tmp_path)
    _write_config(PRESETS["s2-pro"], ids, tmp_path)
    parameters = list(empty_model(tmp_path).parameters())
    assert len(parameters) == 358 and sum(p.numel() for p in parameters) == 4_561_852_416
    assert (ids["<|im_end|>"], ids["<|semantic:0|>"]) == (151645, 151678)
    assert (ids["<|pad|>"], ids["<|voice|>"], ids["<|audio_pad|>"]) == (151669, 151673, 151677)


def test_a_preset_and_a_folder_are_of_this_family(s2_tiny, tmp_path) -> None:
    assert family_of(s2_tiny).name == family_with_preset("s2-pro").name == "fish_s2"
    with pytest.raises(CheckpointError, match=r"expected s1mini, .*, s2-demo, s2-tiny, s2-pro"):
        family_with_preset("nonesuch")
    with pytest.raises(CheckpointError, match="s2-tiny is random, expected no trained weights"):
        make_checkpoint("s2-tiny", tmp_path / "new", weights=tmp_path)
    with pytest.raises(CheckpointError, match="is not empty"):
        make_checkpoint("s2-tiny", s2_tiny)


def test_the_demo_voice_is_what_was_trained(tmp_path) -> None:
    """In bfloat16, as S2-Pro is published; codec and speech are those of S1's demo voice."""
    make_checkpoint("s2-demo", tmp_path / "demo")
    checkpoint = load_checkpoint(tmp_path / "demo")
    trained = read_llama(WEIGHTS / "model.pth")
    found = dict(load_llama(checkpoint).named_parameters())
    assert found.keys() == trained.keys()
    for name, tensor in trained.items():
        assert torch.equal(found[name], tensor.bfloat16().float()), name
    codec, own = (read_codec(p / "codec.pth") for p in (demo.WEIGHTS, tmp_path / "demo"))
    assert all(torch.equal(own[name], tensor.float()) for name, tensor in codec.items())
    assert speech_facts(tmp_path / "demo")["letters_per_request"] == 42


def test_an_untrained_demo_is_not_passed_off(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="Train them: python -m training s2"):
        make_checkpoint("s2-demo", tmp_path / "new", weights=tmp_path)
