"""One pass over the workload, timed; and an engine of VoiceReel under it."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks import workload
from benchmarks.report import console
from benchmarks.server_stats import Snapshot
from voicereel import Audio, VoiceFeatures
from voicereel.engine import Engine
from voicereel.performance_optimizer import allowed_s, meets_target

SEGMENT_TIMEOUT_S = 3600  # upstream takes minutes for a segment at full size


@dataclass(frozen=True)
class Run:
    """One pass over the workload.

    Attributes:
        wall_s: From the script to the whole waveform.
        audio_s: Length of that.
        client_cpu_s: Processor time of this process.
        used: What the server did meanwhile; empty where there is none.
    """

    wall_s: float
    audio_s: float
    client_cpu_s: float
    used: Snapshot = field(default_factory=Snapshot)

    @property
    def rtf(self) -> float:
        return self.wall_s / self.audio_s


def timed(speak: Callable[[], Audio]) -> Run:
    """Time one pass: `speak` returns the whole waveform."""
    cpu, begin = time.process_time(), time.perf_counter()
    audio = speak()
    return Run(time.perf_counter() - begin, audio.duration_s, time.process_time() - cpu)


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Median audio and wall time of several passes, in seconds, and their ratio."""
    wall_s = statistics.median(run.wall_s for run in runs)
    audio_s = statistics.median(run.audio_s for run in runs)
    return {"audio_s": audio_s, "wall_s": wall_s, "rtf": wall_s / audio_s}


@dataclass
class Measured:
    """An engine under the workload.

    Attributes:
        engine: It.
        voices: Features of both speakers, made by the engine.
        script: Segments that it speaks.
        workers: How many of them are in flight together.
        runs: Passes so far.
    """

    engine: Engine
    voices: dict[str, VoiceFeatures]
    script: list[dict[str, str]]
    workers: int
    runs: list[Run]

    def run(self, name: str, frames: int) -> None:
        """Speak the script once, `frames` of each segment at most."""
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"{name}, run {len(self.runs) + 1}", total=len(self.script))

            def speak() -> Audio:
                return self.engine.synthesize_speech_optimized(
                    script=self.script,
                    speaker_features=self.voices,
                    use_parallel=self.workers > 1,
                    max_workers=self.workers,
                    max_new_tokens=frames,
                    seed=1,
                    timeout_s=SEGMENT_TIMEOUT_S,
                    progress=lambda *_: bar.advance(task),
                ).audio

            self.runs.append(timed(speak))

    def summary(self) -> dict[str, Any]:
        """The figures of all passes, and whether they meet VoiceReel's target."""
        found = medians(self.runs)
        audio_s, wall_s = found["audio_s"], found["wall_s"]
        return {
            "segments": len(self.script),
            "workers": self.workers,
            **found,
            "allowed_s": allowed_s(audio_s),
            "passed": meets_target(audio_s, wall_s),
            "runs": [{"audio_s": r.audio_s, "wall_s": r.wall_s, "rtf": r.rtf} for r in self.runs],
            "stages": {name: asdict(stage) for name, stage in self.engine.monitor.stages.items()},
        }


def warmed_up(engine: Engine, script: list[dict[str, str]], workers: int) -> Measured:
    """An engine that has encoded both speakers, and has spoken."""
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
