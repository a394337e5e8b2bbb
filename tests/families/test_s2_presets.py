"""The checkpoint of S2-Pro's shape, without its weights."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = pytest.mark.torch


def test_the_true_shape_has_the_published_number_of_parameters(tmp_path) -> None:
    from families.fish_s2.checkpoint import empty_model
    from families.fish_s2.make_checkpoint import _write_config, _write_tokenizer
    from families.fish_s2.presets import PRESETS

    ids = _write_tokenizer(PRESETS["s2-pro"], tmp_path)
    _write_config(PRESETS["s2-pro"], ids, tmp_path)
    parameters = list(empty_model(tmp_path).parameters())
    assert len(parameters) == 358 and sum(p.numel() for p in parameters) == 4_561_852_416
    assert (ids["<|im_end|>"], ids["<|semantic:0|>"]) == (151645, 151678)
    assert (ids["<|pad|>"], ids["<|voice|>"], ids["<|audio_pad|>"]) == (151669, 151673, 151677)
