"""From a checkpoint folder to a repository: every shape, every file, all or nothing."""

import io
import shutil

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from ensemble.contract.facts import Facts
from ensemble.contract.tensors import MODELS
from ensemble.contract.voice import Reference
from export.run import ParityError, export_checkpoint, tables
from families.fish_s1.checkpoint import load_checkpoint, load_llama
from families.fish_s1.prompt import PromptBuilder
from support.engine import FULL, GREEDY, mixed, run
from support.genuine import assert_same, greedy

pytestmark = [pytest.mark.torch, pytest.mark.slow]
VARIANTS = ["tiny-mha", "tiny-fastdim", "tiny-noqknorm", "tiny-8books", "tiny-tied"]


@pytest.mark.parametrize("name", VARIANTS)
def test_other_shapes_export_and_generate_as_upstream(name, tmp_path) -> None:
    from engine.lm.load import load_runner
    from families.fish_s1.make_checkpoint import make_checkpoint

    make_checkpoint(name, tmp_path / name, seed=1, force=False)
    console = Console(file=io.StringIO(), width=200)
    result = export_checkpoint(tmp_path / name, tmp_path / "repository", False, console)
    assert len(result.comparisons) == 13
    assert all(c.passed for c in result.comparisons)
    for table in tables(result):
        console.print(table)
    assert "fish_llama/1/llama.pt" in console.file.getvalue()

    llama = load_runner(tmp_path / "repository" / "fish_llama" / "1", FULL)
    builder = PromptBuilder(tmp_path / "repository" / "fish_prompt" / "1")
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, n, 20) for n in builder.facts.codebook_sizes])
    voice = Reference("Words", codes)
    jobs = [("Greedy", 0), ("is exact, with", 1), ("any voice.", 3)]
    prompts = [builder.build(text, [voice] * count)[0] for text, count in jobs]
    model = load_llama(load_checkpoint(tmp_path / name))
    spoken = [greedy(model, prompt, GREEDY.max_new_tokens) for prompt in prompts]
    for count, slots, stagger in [(1, 1, 0), (5, 2, 1), (16, 16, 1)]:
        company = mixed(prompts, count)
        results = run(llama, [job[1:] for job in company], slots, stagger)
        for (which, _, sampling), got in zip(company, results, strict=True):
            assert_same(got.codes, got.reason, spoken[which], sampling.max_new_tokens)


def test_full_vocabulary_gives_a_logit_per_token(tiny_checkpoint, tmp_path) -> None:
    from engine.lm.load import load_runner

    console = Console(file=io.StringIO())
    export_checkpoint(tiny_checkpoint, tmp_path / "repository", True, console)
    llama = load_runner(tmp_path / "repository" / "fish_llama" / "1", FULL)
    assert llama.slow_choices == llama.facts.vocab_size
    assert llama.vocabulary.end_choice == llama.facts.im_end_id
    tokens = torch.tensor([0, llama.facts.im_end_id])
    assert torch.equal(llama.vocabulary.token_of(tokens), tokens)


def test_onnx_files_are_what_tritons_backends_take(repository) -> None:
    for model in ("fish_encoder", "fish_decoder"):
        proto = onnx.load(str(repository / model / "1" / "model.onnx"))
        _check_portable(proto)
        for values, tensors in (
            (proto.graph.input, MODELS[model].inputs),
            (proto.graph.output, MODELS[model].outputs),
        ):
            assert [v.name for v in values] == [t.name for t in tensors]
            for value in values:
                assert all(d.dim_param for d in value.type.tensor_type.shape.dim)
    for graph in ("prefill", "decode_step", "fast_loop"):
        path = repository / "fish_llama" / "1" / "onnx" / f"{graph}.onnx"
        _check_portable(onnx.load(str(path), load_external_data=False))


def _check_portable(proto: onnx.ModelProto) -> None:
    assert proto.ir_version <= 10
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 17)]
    # No mask tables: nothing boolean of any size is stored.
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.BOOL:
            assert np.prod(tensor.dims) <= 1024


def test_llama_onnx_files_share_their_weights(repository) -> None:
    folder = repository / "fish_llama" / "1" / "onnx"
    facts = Facts.load(repository / "fish_llama" / "1")
    stored = {}
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            where = {e.key: e.value for e in tensor.external_data}
            if where:
                assert where["location"] == "weights.bin"
                assert stored.setdefault(tensor.name, where["offset"]) == where["offset"]
    layers = {n.split(".")[2] for n in stored if n.startswith("slow.layers.")}
    assert len(layers) == facts.num_layers


def test_a_difference_from_upstream_puts_nothing_in_place(
    repository, tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    monkeypatch.setattr("export.parity.AUDIO_LIMIT", 1e-12)
    with pytest.raises(
        ParityError, match=r"fish_decoder/model.onnx: audio, max abs .*e-0.* limit 1e-12"
    ):
        export_checkpoint(tiny_checkpoint, copy, False, Console(file=io.StringIO()))
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert list(tmp_path.iterdir()) == [copy]  # nor is anything left lying about


def test_every_model_is_told_of_the_same_checkpoint(repository, tiny_checkpoint) -> None:
    identity = load_checkpoint(tiny_checkpoint).checkpoint_id
    for model in ("fish_llama", "fish_prompt", "fish_reference"):
        assert Facts.load(repository / model / "1").checkpoint_id == identity
    with pytest.raises(FileNotFoundError, match="make export CHECKPOINT=DIR"):
        Facts.load(repository / "fish_decoder" / "1")
