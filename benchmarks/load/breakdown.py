"""Columns of the report from a server's counters: batches, cache hits, where time goes."""

from benchmarks.server_stats import Snapshot

_NAMED = ("fish_llama", "fish_decoder", "tritonserver")


def breakdown(used: Snapshot) -> dict[str, float]:
    """What a server did during a load.

    Args:
        used: The difference between the snapshots after and before.

    Returns:
        Mean batch of the LLaMA stage and the decoder; hits and misses of the voice-prefix cache;
        mean seconds of a request in each stage on its way to the first audio; CPU seconds.
    """
    metrics, decoder = used.metrics, used.models["fish_decoder"]
    prompt, llama = used.models["fish_prompt"], used.models["fish_llama"]
    frames = metrics["fish_llama_frames_total"]
    steps = sum(v for name, v in metrics.items() if name.startswith("fish_llama_steps_total"))
    others = sum(s for name, s in used.cpu_s.items() if name not in _NAMED)
    return {
        "llama_requests": llama.inferences,
        "llama_frames": frames,
        "llama_batch": _ratio(frames, steps),
        "decoder_windows": decoder.inferences,
        "decoder_batch": decoder.mean_batch,
        "prefix_hits": metrics["fish_llama_prefix_hits_total"],
        "prefix_misses": metrics["fish_llama_prefix_misses_total"],
        "prompt_s": _ratio(prompt.queue_s + prompt.compute_s, prompt.inferences),
        "first_window_s": _ratio(
            metrics["fish_llama_first_window_seconds_total"],
            metrics["fish_llama_first_windows_total"],
        ),
        "decoder_queue_s": _ratio(decoder.queue_s, decoder.inferences),
        "decoder_compute_s": _ratio(decoder.compute_s, decoder.executions),
        **{f"cpu_s_{name}": used.cpu_s[name] for name in _NAMED},
        "cpu_s_others": others,
    }


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0
