"""What the Fish Audio S2 family offers to the export; see `families.registry`."""

from families.fish_s1.codec import load_codec
from families.fish_s2.checkpoint import load_checkpoint, load_llama, stored_dtype
from families.fish_s2.engine_llama import engine_llama, language_facts
from families.fish_s2.make_checkpoint import make_checkpoint
from families.fish_s2.presets import PRESETS
from families.registry import Family

FAMILY = Family(
    name="fish_s2",
    load_checkpoint=load_checkpoint,
    load_llama=load_llama,
    load_codec=load_codec,
    stored_dtype=stored_dtype,
    engine_llama=engine_llama,
    language_facts=language_facts,
    presets=tuple(PRESETS),
    make_checkpoint=make_checkpoint,
    has_full_vocabulary=False,
)
