"""The presets of random S2 checkpoints: S2-Pro's shape without its weights, and what is refused."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch

from families.fish_s2.checkpoint import empty_model
from families.fish_s2.make_checkpoint import _write_config, _write_tokenizer, make_checkpoint
from families.fish_s2.presets import PRESETS
from families.registry import CheckpointError, family_of, family_with_preset


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
    with pytest.raises(CheckpointError, match=r"expected s1mini, .*, s2-tiny, s2-pro"):
        family_with_preset("nonesuch")
    with pytest.raises(CheckpointError, match="s2-tiny is random, expected no trained weights"):
        make_checkpoint("s2-tiny", tmp_path / "new", weights=tmp_path)
    with pytest.raises(CheckpointError, match="is not empty"):
        make_checkpoint("s2-tiny", s2_tiny)
