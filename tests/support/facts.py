"""Checkpoint facts for tests that need no checkpoint."""

from ensemble.contract.facts import Facts

FACTS = Facts(
    family="fish_s1", checkpoint_id="0",
    sample_rate=44100, samples_per_frame=2048, codebook_sizes=(64,) * 10,
    max_frames=4096, max_reference_frames=6144, history_frames=40, vocab_size=400,
    max_seq_len=8192, semantic_begin_id=300, num_semantic=64, im_end_id=299,
    full_vocabulary=False, num_layers=2, num_kv_heads=2, head_dim=32,
)  # fmt: skip
