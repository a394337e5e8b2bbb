"""The documented environment variables, checked once.

Those marked `server` are read by the server from its own environment. Names, values and defaults
are those of ensemble/contract/settings.py of voicereel-triton; a test holds the two equal.
"""

import difflib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from voicereel.client import DEFAULT_URL
from voicereel.errors import ConfigurationError, InvalidRequest
from voicereel.transport.address import addresses_of


def _plain(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _flag(value: Any) -> Any:
    """Accept true, 1, false and 0. Pydantic accepts yes, on and t too, but the server does not."""
    value = _plain(value)
    if isinstance(value, str) and value not in ("true", "1", "false", "0"):
        raise ValueError("not a flag")
    return value


def _device(value: Any) -> Any:
    return _plain(value) or None


def _whole(value: Any) -> Any:
    """Accept digits. Pydantic accepts 4.0 and 1_000 too, but the server does not."""
    if isinstance(value, str) and not value.strip().isdecimal():
        raise ValueError("not a whole number")
    return value


def _address(value: str) -> str:
    """Accept addresses of gRPC, which streams; the URL of the HTTP service is for `Client`."""
    try:
        fits = addresses_of(value)[0].protocol == "grpc"
    except InvalidRequest:
        fits = False
    if not fits:
        raise ValueError("not an address of gRPC")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
Whole = Annotated[int, BeforeValidator(_whole)]


class Settings(BaseSettings):
    """The values in force in this process. The alias of a field is its environment variable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True)

    use_optimized: Flag = Field(
        True,
        alias="VOICEREEL_USE_OPTIMIZED",
        description="true: speak through Triton; false: with upstream's code in this process",
        json_schema_extra={"expected": "true or false"},
    )
    use_kernels: Flag = Field(
        True,
        alias="FISH_SPEECH_COMPILE",
        description="true: the codec runs on this project's CPU kernels; false: on TorchScript",
        json_schema_extra={"expected": "true or false", "server": True},
    )
    parallel_synthesis: Flag = Field(
        True,
        alias="VOICEREEL_PARALLEL_SYNTHESIS",
        description="true: several segments of a script in flight at a time; false: one",
        json_schema_extra={"expected": "true or false"},
    )
    max_workers: Whole = Field(
        4,
        ge=1,
        le=1024,
        alias="VOICEREEL_MAX_WORKERS",
        description="segments in flight at a time, at most",
        json_schema_extra={"expected": "1 to 1024"},
    )
    batch_size: Whole = Field(
        0,
        ge=0,
        le=1024,
        alias="VOICEREEL_BATCH_SIZE",
        description="requests in a decode batch, at most; 0: as many as memory allows",
        json_schema_extra={"expected": "0 (automatic) to 1024", "server": True},
    )
    device: Annotated[Literal["cpu", "cuda"] | None, BeforeValidator(_device)] = Field(
        None,
        alias="FISH_SPEECH_DEVICE",
        description="cpu or cuda; left out: cuda if there is a GPU",
        json_schema_extra={"expected": "cpu or cuda", "server": True},
    )
    precision: Annotated[
        Literal["half", "full", "int8", "int4", "bf16", "fp16"], BeforeValidator(_plain)
    ] = Field(
        "half",
        alias="FISH_SPEECH_PRECISION",
        description="half: fp16 on a GPU, bf16 on a CPU; full: fp32; int8, int4: on a CPU",
        json_schema_extra={"expected": "half, full, int8, int4, bf16 or fp16", "server": True},
    )
    llama_threads: Whole = Field(
        0,
        ge=0,
        le=1024,
        alias="VOICEREEL_LLAMA_THREADS",
        description="CPU threads of the LLaMA stage; 0: one for each core",
        json_schema_extra={"expected": "0 (automatic) to 1024", "server": True},
    )
    url: Annotated[str, AfterValidator(_address)] = Field(
        DEFAULT_URL,
        alias="VOICEREEL_URL",
        description="address of the server's gRPC service; several with commas",
        json_schema_extra={"expected": "HOST:PORT"},
    )
    checkpoint: Path | None = Field(
        None,
        alias="VOICEREEL_CHECKPOINT",
        description="folder of the checkpoint for upstream's code in this process",
    )
    drain_s: Whole = Field(
        300,
        ge=0,
        le=86_400,
        alias="VOICEREEL_DRAIN_S",
        description="seconds that a stopping server waits for requests in flight; 0: none",
        json_schema_extra={"expected": "0 to 86400", "server": True},
    )
    queue_s: Whole = Field(
        20,
        ge=0,
        le=86_400,
        alias="VOICEREEL_QUEUE_S",
        description="seconds that a request may wait for a slot before it is refused; 0: no limit",
        json_schema_extra={"expected": "0 to 86400", "server": True},
    )
    real_time: Annotated[Literal["off", "wait", "refuse"], BeforeValidator(_plain)] = Field(
        "off",
        alias="VOICEREEL_REAL_TIME",
        description="streams beyond those played in time: off (they speak too), wait or refuse",
        json_schema_extra={"expected": "off, wait or refuse", "server": True},
    )
    voices: Path = Field(
        default_factory=lambda: Path(typer.get_app_dir("voicereel"), "voices"),
        alias="VOICEREEL_VOICES",
        description="folder of the voices that `voicereel voice add` keeps",
    )
    fold_text: Flag = Field(
        True,
        alias="VOICEREEL_FOLD_TEXT",
        description="true: full-width letters, accents and odd spaces of a text are folded",
        json_schema_extra={"expected": "true or false", "server": True},
    )


@dataclass(frozen=True)
class Setting:
    """One environment variable and its value.

    Attributes:
        variable: Its name.
        value: The value in force.
        origin: Where the value is from.
        read_by: "server" if the server reads it from its own environment, else "client".
        meaning: Its effect.
    """

    variable: str
    value: Any
    origin: Literal["environment", "default"]
    read_by: Literal["client", "server"]
    meaning: str


@functools.cache
def settings() -> Settings:
    """The settings of this process, parsed with the first call.

    Raises:
        ConfigurationError: Names every variable that is wrong, its value and what was expected.
    """
    return read_settings()


def read_settings() -> Settings:
    """Parse the environment as it is now; errors are those of `settings`."""
    try:
        return Settings()  # pyright: ignore[reportCallIssue] (the environment gives them)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explained(error))) from None


def listed(found: Settings) -> list[Setting]:
    """Every variable with its value, in the order of the documentation."""
    return [
        Setting(
            str(field.alias),
            getattr(found, name),
            "environment" if name in found.model_fields_set else "default",
            "server" if _extra(name).get("server") else "client",
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def suspicious_variables() -> list[str]:
    """Messages about variables that look like a misspelt one of this project."""
    known = [str(field.alias) for field in Settings.model_fields.values()]
    ours = [v for v in os.environ if v.startswith(("VOICEREEL_", "FISH_SPEECH_"))]
    return [
        f"{variable} is read by no program: did you mean {close[0]}?"
        for variable in sorted(ours)
        if variable not in known
        and (close := difflib.get_close_matches(variable, known, n=1, cutoff=0.85))
    ]


def _extra(name: str) -> dict[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _explained(error: ValidationError) -> list[str]:
    names = {field.alias: name for name, field in Settings.model_fields.items()}
    problems = []
    for found in error.errors(include_url=False):
        variable = str(found["loc"][0])
        expected = _extra(names[variable]).get("expected", found["msg"])
        problems.append(f"{variable} is {found['input']!r}, expected {expected}")
    return problems
