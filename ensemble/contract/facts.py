"""What a checkpoint is, as far as serving must know: `checkpoint.json` beside the artefacts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "checkpoint.json"
FORMAT = 1  # of the file and of all artefacts beside it; raised when an older export cannot serve
LETTERS_PER_S = (3.0, 30.0)  # of any checkpoint: people speak with 8 to 20


def max_prompt_length(max_seq_len: int) -> int:
    """Positions that a prompt may have; upstream keeps 2048 for the answer (`generate_long`)."""
    return max_seq_len - 2048


@dataclass(frozen=True)
class Facts:
    """Written by the export, read by the Python models. Positions and frames are counts.

    Attributes:
        family: Folder of `families/` that reads the checkpoint and builds its prompts.
        checkpoint_id: Hash of the checkpoint's files.
        sample_rate: Hz.
        samples_per_frame: Audio samples that one frame of codes stands for.
        codebook_sizes: Entries of each codebook, the semantic one first.
        max_frames: The codec decodes no frame beyond this many.
        max_reference_frames: The encoder takes no recording longer than this.
        history_frames: Frames before a window that can be heard in it.
        vocab_size: Tokens that have an embedding.
        max_seq_len: Positions of prompt and generated frames together.
        semantic_begin_id: Token of semantic code 0; code n is this + n.
        num_semantic: Semantic tokens; also the codes that the language model knows per codebook.
        im_end_id: Token that ends the speech.
        full_vocabulary: For parity: a logit for every token, and upstream's oddities when
            sampling. Otherwise only the semantic tokens and the end have logits.
        num_layers, num_kv_heads, head_dim: Extents of the KV cache.
        letters_per_request: What one request can say beyond a single sentence: sentences of so many
            letters together. A longer text is sent sentence by sentence. 0: no limit.
        letters_per_s: Slowest and fastest speech, letters a second; what is beyond has lost words
            or repeats them. Counted as `client/voicereel/rate.py` does.
        option_defaults: Options whose defaults are not those of `ensemble.contract.options`.
        fixed_options: Options of which only the default is taken.
        bfloat16_options: Whether upstream holds temperature, top_p and penalty in bfloat16.
        is_dialogue: Whether `<|speaker:N|>` in a text begins the turn of another speaker.
        notice: What whoever serves the weights must show; "" for nothing.
    """

    family: str
    checkpoint_id: str
    sample_rate: int
    samples_per_frame: int
    codebook_sizes: tuple[int, ...]
    max_frames: int
    max_reference_frames: int
    history_frames: int
    vocab_size: int
    max_seq_len: int
    semantic_begin_id: int
    num_semantic: int
    im_end_id: int
    full_vocabulary: bool
    num_layers: int
    num_kv_heads: int
    head_dim: int
    # An export that was made before there were these has the defaults.
    letters_per_request: int = 0
    letters_per_s: tuple[float, float] = LETTERS_PER_S
    option_defaults: Mapping[str, int | float] = field(default_factory=dict)
    fixed_options: tuple[str, ...] = ()
    bfloat16_options: bool = True
    is_dialogue: bool = False
    notice: str = ""

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def max_prompt_length(self) -> int:
        return max_prompt_length(self.max_seq_len)

    def seconds(self, frames: int) -> float:
        """Duration of a number of frames."""
        return frames * self.samples_per_frame / self.sample_rate

    def save(self, folder: Path) -> None:
        """Write the file into a folder."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"
        (folder / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Facts":
        """Read the file from a version folder.

        Raises:
            FileNotFoundError: If nothing has been exported into this folder.
            ValueError: If an export of another format has.
        """
        path = Path(folder) / FILE_NAME
        who = path.parent.parent.name
        if not path.is_file():
            raise FileNotFoundError(
                f"{who}: {path} is missing. Make it with: make export CHECKPOINT=DIR"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        if (found := values.pop("format", None)) != FORMAT:
            raise ValueError(
                f"{who}: {path} has format {found}, expected {FORMAT}. "
                "Re-export with: make export CHECKPOINT=DIR"
            )
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Facts":
        """From JSON, which knows no tuples."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})
