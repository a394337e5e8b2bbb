"""How a server is deployed: the documented environment variables, parsed once.

What the model *is* comes from its checkpoint, what a caller *asks* comes with the request.
NumPy-only, like the rest of the contract: `engine.lm.placement` turns a device and a precision
into torch's, and says what this machine lacks for them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

REAL_TIME = ("off", "wait", "refuse")
ROUNDINGS = ("int8", "int4")  # of the transformers; the codec's decoder has 8 bits with both
PRECISIONS = ("half", "full", "bf16", "fp16", *ROUNDINGS)
MOST = 1024  # requests or threads; a larger number is a slip of the keyboard
DRAIN_S = 300  # as long as the client's calls may take unless they say otherwise
QUEUE_S = 20  # longer than a sentence takes a busy CPU; a caller who hears of it can go elsewhere
MOST_DRAIN_S = 86_400  # a day


@dataclass(frozen=True)
class ServerSettings:
    """Attributes:
    device: FISH_SPEECH_DEVICE: "cpu", "cuda", or "" for where Triton places the instance.
    precision: FISH_SPEECH_PRECISION, one of `PRECISIONS`.
    use_kernels: FISH_SPEECH_COMPILE: whether operators compiled for this machine may serve.
    batch_size: VOICEREEL_BATCH_SIZE: requests decoded together, at most; 0: automatic.
    llama_threads: VOICEREEL_LLAMA_THREADS: CPU threads of the LLaMA stage; 0: as torch has it.
    grpc_url: VOICEREEL_GRPC_URL: HOST:PORT of this server, or "" to find it.
    fold_text: VOICEREEL_FOLD_TEXT: whether texts are folded before the tokenizer.
    drain_s: VOICEREEL_DRAIN_S: seconds that requests in flight may take to end when `make serve`
        is stopped; 0: none.
    queue_s: VOICEREEL_QUEUE_S: seconds that a request may wait for a slot of the LLaMA stage; 0: as
        long as its own timeout lets it.
    real_time: VOICEREEL_REAL_TIME, one of `REAL_TIME`: what becomes of streams beyond those that
        can be played in time; "off": they are admitted while there are slots.
    drain_pipe: VOICEREEL_DRAIN_PIPE: set by the launcher; see `ensemble.serving.drain`.
    """

    device: str = ""
    precision: str = "half"
    use_kernels: bool = True
    batch_size: int = 0
    llama_threads: int = 0
    grpc_url: str = ""
    fold_text: bool = True
    drain_s: int = DRAIN_S
    drain_pipe: str = ""
    queue_s: int = QUEUE_S
    real_time: str = "off"


def server_settings(environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """Read every variable of the server.

    Raises:
        ValueError: If a value is not one of those documented; names the variable.
    """
    return ServerSettings(
        device=_one_of(environment, "FISH_SPEECH_DEVICE", ("", "cpu", "cuda")),
        precision=_one_of(environment, "FISH_SPEECH_PRECISION", PRECISIONS, "half"),
        use_kernels=_boolean(environment, "FISH_SPEECH_COMPILE"),
        batch_size=_count(environment, "VOICEREEL_BATCH_SIZE"),
        llama_threads=_count(environment, "VOICEREEL_LLAMA_THREADS"),
        grpc_url=environment.get("VOICEREEL_GRPC_URL", "").strip(),
        fold_text=_boolean(environment, "VOICEREEL_FOLD_TEXT"),
        drain_s=_seconds(environment, "VOICEREEL_DRAIN_S", DRAIN_S),
        drain_pipe=environment.get("VOICEREEL_DRAIN_PIPE", ""),
        queue_s=_seconds(environment, "VOICEREEL_QUEUE_S", QUEUE_S),
        real_time=_one_of(environment, "VOICEREEL_REAL_TIME", REAL_TIME, "off"),
    )


def _one_of(
    environment: Mapping[str, str], name: str, values: tuple[str, ...], default: str = ""
) -> str:
    text = environment.get(name, default).strip().lower()
    if text not in values:
        *most, last = filter(None, values)
        raise ValueError(f"{name} is {text!r}, expected {', '.join(most)} or {last}.")
    return text


def _boolean(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "true").strip().lower()
    if text not in ("true", "1", "false", "0"):
        raise ValueError(f"{name} is {text!r}, expected true or false.")
    return text in ("true", "1")


def _count(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0").strip()
    if not text.isdecimal() or int(text) > MOST:
        raise ValueError(f"{name} is {text!r}, expected 0 (automatic) to {MOST}.")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default)).strip()
    if not text.isdecimal() or int(text) > MOST_DRAIN_S:
        raise ValueError(f"{name} is {text!r}, expected 0 to {MOST_DRAIN_S}.")
    return int(text)
