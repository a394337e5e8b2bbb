"""The documented environment variables, checked once.

The server reads those marked so from its own environment (ensemble/contract/settings.py of
voicereel-triton): same names, same values, same defaults.
"""

import difflib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from voicereel.errors import ConfigurationError


def _plain(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _flag(value: Any) -> Any:
    """Pydantic would take yes, on and t, which the server refuses."""
    value = _plain(value)
    if isinstance(value, str) and value not in ("true", "1", "false", "0"):
        raise ValueError("not a flag")
    return value


def _device(value: Any) -> Any:
    return _plain(value) or None


def _whole(value: Any) -> Any:
    """Digits only: pydantic would take 4.0 and 1_000, which the server refuses."""
    if isinstance(value, str) and not value.strip().isdecimal():
        raise ValueError("not a whole number")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
Whole = Annotated[int, BeforeValidator(_whole)]


class Settings(BaseSettings):
    """What is in force in this process. Each field is one variable, its alias."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True)

    use_optimized: Flag = Field(
        True,
        alias="VOICEREEL_USE_OPTIMIZED",
        description="get_optimized_engine() speaks through Triton; false: upstream in process",
        json_schema_extra={"expected": "true or false"},
    )
    compiled: Flag = Field(
        True,
        alias="FISH_SPEECH_COMPILE",
        description="compiled artefacts; false: plain TorchScript",
        json_schema_extra={"expected": "true or false", "server": True},
    )
    parallel_synthesis: Flag = Field(
        True,
        alias="VOICEREEL_PARALLEL_SYNTHESIS",
        description="segments of a script in flight together",
        json_schema_extra={"expected": "true or false"},
    )
    max_workers: Whole = Field(
        4,
        ge=1,
        le=1024,
        alias="VOICEREEL_MAX_WORKERS",
        description="how many of them",
        json_schema_extra={"expected": "1 to 1024"},
    )
    batch_size: Whole = Field(
        0,
        ge=0,
        le=1024,
        alias="VOICEREEL_BATCH_SIZE",
        description="requests decoded together; 0: automatic",
        json_schema_extra={"expected": "0 (automatic) to 1024", "server": True},
    )
    device: Annotated[Literal["cpu", "cuda"] | None, BeforeValidator(_device)] = Field(
        None,
        alias="FISH_SPEECH_DEVICE",
        description="cpu or cuda; left out: cuda if there is one",
        json_schema_extra={"expected": "cpu or cuda", "server": True},
    )
    precision: Annotated[
        Literal["half", "full", "int8", "bf16", "fp16"], BeforeValidator(_plain)
    ] = Field(
        "half",
        alias="FISH_SPEECH_PRECISION",
        description="half: fp16 on a GPU, bf16 on a CPU that has it; full: fp32; int8: on a CPU",
        json_schema_extra={"expected": "half, full, int8, bf16 or fp16", "server": True},
    )
    llama_threads: Whole = Field(
        0,
        ge=0,
        le=1024,
        alias="VOICEREEL_LLAMA_THREADS",
        description="CPU threads of the LLaMA stage; 0: as many as there are cores",
        json_schema_extra={"expected": "0 (automatic) to 1024", "server": True},
    )
    url: str = Field(
        "127.0.0.1:8001",
        pattern=r"^[^\s/]+:\d+$",
        alias="VOICEREEL_URL",
        description="the server's gRPC address",
        json_schema_extra={"expected": "HOST:PORT"},
    )
    checkpoint: Path | None = Field(
        None,
        alias="VOICEREEL_CHECKPOINT",
        description="folder of the checkpoint that the regular engine speaks with",
    )
    voices: Path = Field(
        default_factory=lambda: Path(typer.get_app_dir("voicereel"), "voices"),
        alias="VOICEREEL_VOICES",
        description="folder of the voices that `voicereel voice add` keeps",
    )


@dataclass(frozen=True)
class Setting:
    """One variable as it stands.

    Attributes:
        variable: Its name.
        value: In force.
        origin: "environment" or "default".
        read_by: "server" if the server reads its own, else "client".
        meaning: What it does.
    """

    variable: str
    value: Any
    origin: Literal["environment", "default"]
    read_by: Literal["client", "server"]
    meaning: str


@functools.cache
def settings() -> Settings:
    """Of this process, parsed with the first call.

    Raises:
        ConfigurationError: Names every variable that is wrong, its value and what was expected.
    """
    return read_settings()


def read_settings() -> Settings:
    """Of the environment as it is now; errors as in `settings`."""
    try:
        return Settings()  # pyright: ignore[reportCallIssue] (the environment gives them)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explained(error))) from None


def listed(found: Settings) -> list[Setting]:
    """Every variable, in the order of the documentation."""
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
    """Variables that look like a misspelt one of ours, each with what it may mean."""
    known = [str(field.alias) for field in Settings.model_fields.values()]
    ours = [v for v in os.environ if v.startswith(("VOICEREEL_", "FISH_SPEECH_"))]
    return [
        f"{variable} is not read by anybody: is it {close[0]}?"
        for variable in sorted(ours)
        if variable not in known
        and (close := difflib.get_close_matches(variable, known, n=1, cutoff=0.85))
    ]


def _extra(name: str) -> dict[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _explained(error: ValidationError) -> list[str]:
    names = {field.alias: name for name, field in Settings.model_fields.items()}
    said = []
    for found in error.errors(include_url=False):
        variable = str(found["loc"][0])
        expected = _extra(names[variable]).get("expected", found["msg"])
        said.append(f"{variable} is {found['input']!r}, expected {expected}")
    return said
