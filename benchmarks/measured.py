"""An engine of VoiceReel under the brief's workload."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import workload
from voicereel import VoiceFeatures
from voicereel.engine import Engine
from voicereel.performance_optimizer import allowed_s, meets_target

console = Console(stderr=True)


@dataclass
class Measured:
    """An engine under the workload.

    Attributes:
        engine: It.
        voices: Both speakers' features, made by it.
        script: Its segments.
        workers: How many of them in flight.
        runs: What each pass came to.
    """

    engine: Engine
    voices: dict[str, VoiceFeatures]
    script: list[dict[str, str]]
    workers: int
    runs: list[dict[str, float]]

    def run(self, name: str, frames: int) -> None:
        """Speak the script once."""
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"{name}, run {len(self.runs) + 1}", total=len(self.script))
            begin = time.perf_counter()
            audio, _ = self.engine.synthesize_speech_optimized(
                script=self.script,
                speaker_features=self.voices,
                use_parallel=self.workers > 1,
                max_workers=self.workers,
                max_new_tokens=frames,
                seed=1,
                timeout_s=3600,
                progress=lambda *_: bar.advance(task),
            )
        wall_s = time.perf_counter() - begin
        audio_s = audio.duration_s
        self.runs.append({"audio_s": audio_s, "wall_s": wall_s, "rtf": wall_s / audio_s})

    def summary(self) -> dict[str, Any]:
        wall_s = statistics.median(run["wall_s"] for run in self.runs)
        audio_s = statistics.median(run["audio_s"] for run in self.runs)
        stages = {name: vars(stage) for name, stage in self.engine.monitor.stages.items()}
        return {
            "segments": len(self.script),
            "workers": self.workers,
            "audio_s": audio_s,
            "wall_s": wall_s,
            "rtf": wall_s / audio_s,
            "allowed_s": allowed_s(audio_s),
            "passed": meets_target(audio_s, wall_s),
            "runs": self.runs,
            "stages": stages,
        }


def warmed_up(engine: Engine, script: list[dict[str, str]], workers: int) -> Measured:
    """An engine that has heard both speakers, and spoken."""
    engine._warmup_models()
    with tempfile.TemporaryDirectory() as folder:
        voices = {
            name: engine.extract_speaker_features_fast(
                audio_path=recording.path,
                reference_text=recording.words,
                use_chunking=True,
                chunk_size=3,
            )
            for name, recording in workload.recordings(Path(folder)).items()
        }
    return Measured(engine, voices, script, workers, [])
