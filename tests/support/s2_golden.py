"""The tiny S2 checkpoint of `tests/golden/s2`, and what genuine upstream main answered on it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.contract.voice import Reference

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "s2"


@dataclass(frozen=True)
class Batch:
    """What upstream made of one batch of a case: int32 tables, see the README there."""

    prompt: np.ndarray
    frames: np.ndarray
    codes: np.ndarray
    ended: bool

    @property
    def spoken(self) -> np.ndarray:
        """Codes of all frames but the end's, int64 (codebooks, frames)."""
        return self.frames[1:, : self.frames.shape[1] - self.ended].astype(np.int64)


@dataclass(frozen=True)
class Case:
    """One recorded run; `arrays` are those of its file."""

    text: str
    references: list[Reference]
    options: dict[str, Any]
    batches: list[Batch]
    arrays: Any


def case(name: str) -> Case:
    """A case by its name in cases.json."""
    known = json.loads((GOLDEN / "cases.json").read_text("utf-8"))
    found, arrays = known["cases"][name], np.load(GOLDEN / f"{name}.npz")
    said = found["references"] or {"texts": [], "codes": []}
    recordings = [np.array(codes) for codes in known["references"]]
    return Case(
        found["text"],
        [
            Reference(text, recordings[i])
            for text, i in zip(said["texts"], said["codes"], strict=True)
        ],
        found["options"],
        [
            Batch(*(arrays[f"{part}_{i}"] for part in ("prompt", "frames", "codes")),
                  ended=batch["ended_by_im_end"])
            for i, batch in enumerate(found["batches"])
        ],
        arrays,
    )  # fmt: skip


def write_checkpoint(folder: Path, codec: Path) -> Path:
    """Write the checkpoint, in two shards of bfloat16, with the codec of another folder."""
    import torch

    from families.fish_s2.safetensors import INDEX, Writer

    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(GOLDEN / name, folder / name)
    for name in ("codec.pth", "codec.yaml"):
        shutil.copyfile(codec / name, folder / name)
    tensors = {name: torch.from_numpy(values) for name, values in _weights().items()}
    names, places = list(tensors), {}
    for number, part in enumerate((names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :])):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        writer = Writer(folder / file, {n: tuple(tensors[n].shape) for n in part}, torch.bfloat16)
        for name in part:
            writer.add(name, tensors[name])
        writer.close()
        places.update(dict.fromkeys(part, file))
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def _weights() -> dict[str, np.ndarray]:
    """Every tensor in float32, drawn in the order in which the recorded checkpoint's were."""
    config = json.loads((GOLDEN / "config.json").read_text("utf-8"))
    text, fast = config["text_config"], config["audio_decoder_config"]
    random = np.random.Generator(np.random.PCG64(7))
    tensors: dict[str, np.ndarray] = {}

    def draw(name: str, *shape: int, std: float, mean: float = 0.0) -> None:
        values = random.standard_normal(shape, dtype=np.float32)
        tensors[f"{name}.weight"] = values * np.float32(std) + np.float32(mean)

    def layers(prefix: str, part: dict[str, Any]) -> None:
        dim, width, wide = part["dim"], part["head_dim"], part["intermediate_size"]
        inner = part["n_head"] * width
        for layer in (f"{prefix}.layers.{i}" for i in range(part["n_layer"])):
            rows = inner + 2 * part["n_local_heads"] * width
            draw(f"{layer}.attention.wqkv", rows, dim, std=1.5 * dim**-0.5)
            draw(f"{layer}.attention.wo", dim, inner, std=1.5 * inner**-0.5)
            if part["attention_qk_norm"]:
                draw(f"{layer}.attention.q_norm", width, std=0.2, mean=1.2)
                draw(f"{layer}.attention.k_norm", width, std=0.2, mean=1.2)
            for name, shape in (("w1", (wide, dim)), ("w3", (wide, dim)), ("w2", (dim, wide))):
                draw(f"{layer}.feed_forward.{name}", *shape, std=1.5 * shape[1] ** -0.5)
            draw(f"{layer}.attention_norm", dim, std=0.1, mean=1.0)
            draw(f"{layer}.ffn_norm", dim, std=0.1, mean=1.0)

    dim, codes = text["dim"], fast["vocab_size"]
    draw("text_model.model.embeddings", text["vocab_size"], dim, std=0.5)
    layers("text_model.model", text)
    draw("text_model.model.norm", dim, std=0.3, mean=1.0)
    draw("audio_decoder.codebook_embeddings", codes * fast["num_codebooks"], dim, std=1.0)
    draw("audio_decoder.embeddings", codes, fast["dim"], std=1.0)
    layers("audio_decoder", fast)
    draw("audio_decoder.norm", fast["dim"], std=0.1, mean=1.0)
    draw("audio_decoder.output", codes, fast["dim"], std=0.5)
    return tensors
