"""From a checkpoint folder to a repository: every shape, every file, all or nothing."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from ensemble.contract.facts import Facts
from ensemble.contract.tensors import MODELS
from ensemble.contract.voice import Reference
from export.lm import export_llama
from export.run import Asked, ParityError, export_checkpoint, tables
from families.fish_s1.checkpoint import load_checkpoint, load_llama
from families.fish_s1.engine_llama import engine_llama
from families.fish_s1.prompt import PromptBuilder
from support.engine import FULL, GREEDY, mixed, run
from support.genuine import assert_same, greedy

pytestmark = [pytest.mark.torch, pytest.mark.slow]
PROJECT = Path(__file__).resolve().parents[2]
WITH_TINYS_CODEC = [
    pytest.param(name, marks=pytest.mark.long)
    for name in ("tiny-fastdim", "tiny-mha", "tiny-noqknorm", "tiny-tied")
]


@pytest.fixture
def without_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports leave the codec out, which is that of `tiny`, and takes most of their time."""
    for name in ("export_encoder", "export_decoder"):
        monkeypatch.setattr(f"export.run.{name}", lambda *_: [])


@pytest.mark.usefixtures("without_codec")
def test_eight_codebooks_generate_as_upstream(tmp_path) -> None:
    assert len(_exported_and_generated_as_upstream("tiny-8books", tmp_path, False)) == 6


@pytest.mark.long
def test_eight_codebooks_export_and_generate_as_upstream(tmp_path) -> None:
    artefacts = _exported_and_generated_as_upstream("tiny-8books", tmp_path)
    assert artefacts.count("fish_encoder/model.onnx") and artefacts.count("fish_decoder/model.onnx")
    assert len(artefacts) == 13


@pytest.mark.parametrize("name", WITH_TINYS_CODEC)
@pytest.mark.usefixtures("without_codec")
def test_other_shapes_export_and_generate_as_upstream(name, tmp_path) -> None:
    onnx_too = name == "tiny-fastdim"  # whose fast transformer has a width of its own
    found = _exported_and_generated_as_upstream(name, tmp_path, onnx_too)
    assert len(found) == (9 if onnx_too else 6)


def _exported_and_generated_as_upstream(
    name: str, tmp_path: Path, onnx_llama: bool = True
) -> list[str]:
    """The artefacts that an export compared with upstream, all equal to it."""
    from engine.lm.load import load_runner
    from families.fish_s1.make_checkpoint import make_checkpoint

    make_checkpoint(name, tmp_path / name, seed=1, force=False)
    console = Console(file=io.StringIO(), width=200)
    result = export_checkpoint(
        tmp_path / name, tmp_path / "repository", console, Asked(onnx_llama=onnx_llama)
    )
    assert all(c.passed for c in result.comparisons)
    assert sum(c.artefact == "fish_llama/onnx" for c in result.comparisons) == 3 * onnx_llama
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
        batch = mixed(prompts, count)
        results = run(llama, [job[1:] for job in batch], slots, stagger)
        for (which, _, sampling), got in zip(batch, results, strict=True):
            assert_same(got.codes, got.reason, spoken[which], sampling.max_new_tokens)
    return [c.artefact for c in result.comparisons]


@pytest.mark.usefixtures("without_codec")
def test_full_vocabulary_gives_a_logit_per_token(tiny_checkpoint, tmp_path) -> None:
    from engine.lm.load import load_runner

    console = Console(file=io.StringIO())
    export_checkpoint(
        tiny_checkpoint, tmp_path / "repository", console, Asked(full_vocabulary=True)
    )
    llama = load_runner(tmp_path / "repository" / "fish_llama" / "1", FULL)
    assert llama.slow_choices == llama.facts.vocab_size
    assert llama.vocabulary.end_choice == llama.facts.im_end_id
    tokens = torch.tensor([0, llama.facts.im_end_id])
    assert torch.equal(llama.vocabulary.token_of(tokens), tokens)


def test_torchscript_alone_needs_no_onnx(tiny_checkpoint, repository, tmp_path) -> None:
    """The same weights in the same graphs, where neither exporter nor runtime is installed."""
    program = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path; from rich.console import Console\n"
        "from export.run import Asked, export_checkpoint\n"
        "folders, asked = map(Path, sys.argv[1:]), Asked(torchscript_only=True)\n"
        "result = export_checkpoint(*folders, Console(stderr=True), asked)\n"
        "print(len(result.comparisons), *sorted(n for n in result.sizes if 'coder/1/model' in n))"
    )
    command = [sys.executable, "-c", program, str(tiny_checkpoint), str(tmp_path / "quick")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert said.stdout.split() == ["0", "fish_decoder/1/model.pt", "fish_encoder/1/model.pt"], (
        said.stderr
    )
    for name in ("fish_decoder/1/model.pt", "fish_encoder/1/model.pt", "fish_llama/1/llama.pt"):
        quick, full = (
            torch.jit.load(str(folder / name)).state_dict()
            for folder in (tmp_path / "quick", repository)
        )
        assert quick.keys() == full.keys()
        assert all(torch.equal(quick[key], full[key]) for key in full)


@pytest.fixture(scope="module")
def llama_onnx(tiny_checkpoint, tmp_path_factory) -> Path:
    """The folder of the language model's ONNX files, which an export writes only if asked."""
    genuine = load_llama(load_checkpoint(tiny_checkpoint))
    folder = tmp_path_factory.mktemp("llama") / "1"
    whole = engine_llama(genuine, full_vocabulary=False)
    found = export_llama(genuine, whole, torch.float32, folder, lambda _: None, onnx=True)
    assert len(found) == 9 and all(c.passed for c in found)
    return folder / "onnx"


def test_the_language_model_is_no_onnx_unless_asked(repository) -> None:
    assert not (repository / "fish_llama" / "1" / "onnx").exists()
    assert (repository / "fish_llama" / "1" / "llama.pt").is_file()


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


def test_llama_onnx_files_are_portable(llama_onnx) -> None:
    for graph in ("prefill", "decode_step", "fast_loop"):
        path = llama_onnx / f"{graph}.onnx"
        _check_portable(onnx.load(str(path), load_external_data=False))


def _check_portable(proto: onnx.ModelProto) -> None:
    assert proto.ir_version <= 10
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 17)]
    # No mask tables: nothing boolean of any size is stored.
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.BOOL:
            assert np.prod(tensor.dims) <= 1024


def test_llama_onnx_files_share_their_weights(repository, llama_onnx) -> None:
    facts = Facts.load(repository / "fish_llama" / "1")
    stored = {}
    for path in llama_onnx.glob("*.onnx"):
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            where = {e.key: e.value for e in tensor.external_data}
            if where:
                assert where["location"] == "weights.bin"
                assert stored.setdefault(tensor.name, where["offset"]) == where["offset"]
    layers = {n.split(".")[2] for n in stored if n.startswith("slow.layers.")}
    assert len(layers) == facts.num_layers


@pytest.mark.usefixtures("without_codec")
def test_a_difference_from_upstream_puts_nothing_in_place(
    repository, tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    monkeypatch.setattr("export.parity.LOGITS_LIMIT", 1e-12)
    with pytest.raises(ParityError, match=r"fish_llama/.*: .*logits.*e-0.* limit 1e-12"):
        export_checkpoint(tiny_checkpoint, copy, Console(file=io.StringIO()))
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert list(tmp_path.iterdir()) == [copy]  # nor is anything left lying about


def test_every_model_is_told_of_the_same_checkpoint(repository, tiny_checkpoint) -> None:
    identity = load_checkpoint(tiny_checkpoint).checkpoint_id
    for model in ("fish_llama", "fish_prompt", "fish_reference"):
        assert Facts.load(repository / model / "1").checkpoint_id == identity
    with pytest.raises(FileNotFoundError, match="make export CHECKPOINT=DIR"):
        Facts.load(repository / "fish_decoder" / "1")
