"""The decoder streamed: what an utterance costs by its length, and what the server adds."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure  # without pyplot it needs no display and no backend
from tritonclient.grpc import InferenceServerClient, InferInput

from benchmarks.codec_cells import Codec, taking_turns, windows
from benchmarks.load_cost import exponent
from engine.codec.decoder import DecoderGraph
from engine.schedule.chunk_schedule import ChunkSchedule
from ensemble.contract.tensors import OPTIONS
from export.parity import Run
from launch.server import Server


@dataclass(frozen=True)
class Curve:
    """One utterance, decoded window by window.

    Attributes:
        frames: So far, after each window.
        seconds: So far; an utterance that ends there has cost as much.
    """

    frames: list[int]
    seconds: list[float]

    @property
    def exponent(self) -> float:
        """Of seconds over frames, in the longer half; 1 is linear."""
        return exponent(self.frames, self.seconds)

    def plot(self, path: Path, title: str) -> None:
        """Draw the cost of an utterance by its length, and that of each window's frames."""
        figure = Figure(figsize=(9, 3.6), layout="constrained")
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


def streamed(codec: Codec, decode: Run, frames: int) -> Curve:
    """Decode one utterance of about so many frames by the default schedule."""
    default = {option.name: option.default for option in OPTIONS}
    first, largest = (int(default[n] or 0) for n in ("first_chunk_frames", "max_chunk_frames"))
    schedule = ChunkSchedule(first, largest, DecoderGraph(codec.genuine).history_frames)
    codes = windows(codec.genuine, 1, 0, frames)[0][0].T.numpy()
    curve, spent = Curve([], []), 0.0
    while schedule.due(len(codes)):
        window = schedule.cut(codes)
        inputs = [torch.from_numpy(x[None]) for x in (window.codes, window.new_frames)]
        begin = time.perf_counter()
        decode(*inputs)
        spent += time.perf_counter() - begin
        curve.frames.append(schedule.start)
        curve.seconds.append(spent)
    return curve


def server_overhead(
    codec: Codec, decode: Run, repository: Path, precision: str, frames: int, seconds: float
) -> dict[str, float]:
    """One window through a tritonserver and the same graph called here, taking turns.

    Args:
        codec: Of the repository.
        decode: The artefact that it serves.
        repository: Of it only the decoder is served.
        precision: FISH_SPEECH_PRECISION, with which it is served.
        frames: Of the window, all new.
        seconds: To spend.

    Returns:
        Seconds `in_process` and by `server`, from the caller's arrays to the audio in his hands.
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
