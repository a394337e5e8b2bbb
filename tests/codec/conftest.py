"""The tiny codec on kernels, laid out on this machine."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kernel_repository(repository: Path, tiny_checkpoint: Path, tmp_path_factory) -> Path:
    """A repository of the codec alone, with files on kernels; not to be written to."""
    from engine.codec.decoder import DecoderGraph
    from engine.codec.encoder import EncoderGraph
    from engine.codec.package import machine_fault
    from export.codec_kernels import export_decoder, export_encoder
    from export.parity import decoder_cases, encoder_cases
    from families.fish_s1.checkpoint import load_checkpoint, load_codec

    if fault := machine_fault():
        pytest.skip(fault)
    copy = tmp_path_factory.mktemp("kernels") / "repository"
    for model in ("fish_encoder", "fish_decoder"):
        shutil.copytree(repository / model, copy / model)
    codec = load_codec(load_checkpoint(tiny_checkpoint))
    cases = decoder_cases(codec, (64,) * 10, 2048)
    folder = copy / "fish_decoder" / "1"
    (comparison,) = export_decoder(DecoderGraph(codec).eval(), cases, folder, print)
    assert comparison.passed
    cases = encoder_cases(codec, 44100, 2048)
    folder = copy / "fish_encoder" / "1"
    (comparison,) = export_encoder(EncoderGraph(codec).eval(), cases, folder, print)
    assert comparison.passed
    return copy
