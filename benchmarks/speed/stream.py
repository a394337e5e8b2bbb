"""The decoder streamed: what an utterance costs by its length, and what the server adds."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tritonclient.grpc import InferenceServerClient, InferInput

from benchmarks.growth import exponent
from benchmarks.report import new_figure
from benchmarks.speed.cells import Codec, taking_turns, windows
from engine.codec.decoder import DecoderGraph
from engine.schedule.chunk_schedule import ChunkSchedule
from ensemble.contract.options import OPTIONS
from export.parity import Run
from launch.server import Server


@dataclass(frozen=True)
class StreamCost:
    """The cost of one utterance, decoded window by window.

    Attributes:
        frames: Frames decoded up to the end of each window.
        seconds: Time spent up to there: the cost of an utterance that ends with that window.
    """

    frames: list[int]
    seconds: list[float]

    @property
    def exponent(self) -> float:
        """Exponent of seconds over frames in the longer half; 1 is linear."""
        return exponent(self.frames, self.seconds)

    def plot(self, path: Path, title: str) -> None:
        """Draw the cost of an utterance by its length, and that of each window's frames."""
        figure = new_figure(9, 3.6)
        whole, each = figure.subplots(1, 2)
        whole.plot(self.frames, self.seconds, "o-", markersize=3)
        whole.set(xlabel="frames of the utterance", ylabel="s to decode it, streamed")
        sizes, costs = (np.diff([0, *values]) for values in (self.frames, self.seconds))
        each.plot(self.frames, 1000 * costs / sizes, "o-", markersize=3, color="tab:orange")
        each.set(xlabel="frames before the window's end", ylabel="ms a frame, in this window")
        for axis in (whole, each):
            axis.set(xlim=(0, None), ylim=(0, None))
            axis.grid(alpha=0.3)
        figure.suptitle(f"{title}; exponent {self.exponent:.2f}", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)


def streamed(codec: Codec, decode: Run, frames: int) -> StreamCost:
    """Decode an utterance of about `frames` frames, cut by the default chunk schedule."""
    default = {option.name: option.default for option in OPTIONS}
    first, largest = (int(default[n] or 0) for n in ("first_chunk_frames", "max_chunk_frames"))
    schedule = ChunkSchedule(first, largest, DecoderGraph(codec.genuine).history_frames)
    codes = windows(codec.genuine, 1, 0, frames)[0][0].T.numpy()
    cost, spent = StreamCost([], []), 0.0
    while schedule.due(len(codes)):
        window = schedule.cut(codes)
        inputs = [torch.from_numpy(x[None]) for x in (window.codes, window.new_frames)]
        begin = time.perf_counter()
        decode(*inputs)
        spent += time.perf_counter() - begin
        cost.frames.append(schedule.start)
        cost.seconds.append(spent)
    return cost


def server_overhead(
    codec: Codec, decode: Run, repository: Path, precision: str, frames: int, seconds: float
) -> dict[str, float]:
    """Time one window through a tritonserver and in this process, taking turns.

    Args:
        codec: The repository's codec.
        decode: The artefact that the repository serves, called in this process.
        repository: Model repository; only its decoder is served.
        precision: FISH_SPEECH_PRECISION of the server.
        frames: Frames of the window, all of them new.
        seconds: Seconds to spend.

    Returns:
        Seconds `in_process` and by `server`, from the caller's arrays to the audio in its memory.
    """
    codes, numbers = windows(codec.genuine, 1, 0, frames)
    inputs = []
    for name, tensor in (("codes", codes), ("new_frames", numbers)):
        inputs.append(InferInput(name, list(tensor.shape), "INT64"))
        inputs[-1].set_data_from_numpy(tensor.numpy())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "fish_decoder").symlink_to((repository / "fish_decoder").resolve())
        environment = {"FISH_SPEECH_PRECISION": precision}
        with (
            Server(folder, "cpu", environment=environment) as server,
            InferenceServerClient(server.grpc_url) as client,
        ):
            return taking_turns(
                {
                    "in_process": lambda: decode(codes, numbers),
                    "server": lambda: _answer(client, inputs),
                },
                seconds,
            )


def _answer(client: InferenceServerClient, inputs: list[InferInput]) -> np.ndarray | None:
    result = client.infer("fish_decoder", inputs)
    return None if result is None else result.as_numpy("audio")
