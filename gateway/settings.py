"""What the operator decides: environment variables and one YAML file, checked at the start."""

import functools
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from voicereel import ConfigurationError
from voicereel.settings import settings as client_settings

PREFIX = "VOICEREEL_GATEWAY_"
DEFAULT_VOICE = "default"  # the checkpoint's own
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SERVER = re.compile(r"(dns:///|grpcs?://)?[^\s/,]+:\d+")
_ALIASES = Path(__file__).with_name("aliases.yaml")
MIB = 2**20


class Aliases(BaseModel):
    """Names that apps use, and what they stand for.

    Attributes:
        voices: Voice by alias.
        models: Further names of the model.
    """

    model_config = ConfigDict(extra="forbid")
    voices: dict[str, str] = Field(default_factory=dict)
    models: list[str] = Field(default_factory=list)


class Settings(BaseSettings):
    """The gateway's settings; a field's variable is VOICEREEL_GATEWAY_ and its name in capitals."""

    model_config = SettingsConfigDict(frozen=True, env_prefix=PREFIX, extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen at")
    port: int = Field(8080, ge=0, le=65535, description="port to listen at; 0: any free one")
    servers: Annotated[str, NoDecode] = Field(
        "", description="gRPC addresses of tritonservers, by commas; dns:///NAME:PORT is all "
        "addresses of a name. Left out: VOICEREEL_URL",
    )  # fmt: skip
    timeout_s: float = Field(300.0, gt=0, le=3600, description="seconds that a request may take")
    drain_s: int = Field(
        300, ge=0, le=86_400, description="seconds that requests may take to end at a stop"
    )
    voices: Path | None = Field(
        None, description="folder of the voices. Left out: VOICEREEL_VOICES"
    )
    max_voices: int = Field(1000, ge=0, description="voices that the folder may hold")
    aliases_file: Path = Field(
        _ALIASES, alias="VOICEREEL_GATEWAY_ALIASES", description="YAML file of aliases"
    )
    keys_file: Path | None = Field(
        None, description="file of keys' SHA-256, one a line: `python -m gateway key` makes one"
    )
    key_hashes: str = Field("", description="the same, by commas")
    open: bool = Field(False, description="true: serve other machines without keys")
    origins: str = Field("", description="origins of pages that may call, by commas: https://a.b")
    hosts: str = Field(
        "", description="further names by which this machine's callers reach it, by commas"
    )
    max_streams: int = Field(64, ge=1, le=4096, description="requests in flight; more get 429")
    max_text_characters: int = Field(4096, ge=1, le=1_000_000, description="of one text")
    max_body_mib: int = Field(16, ge=1, le=1024, description="MiB of a body; more gets 413")
    instructions: Literal["refuse", "ignore", "inline"] = Field(
        "refuse", description="what `instructions` do: refuse (422), ignore (told in a header), "
        "inline (in brackets before the text, as Fish Audio S2 reads them)",
    )  # fmt: skip

    @property
    def aliases(self) -> Aliases:
        return _aliases(self.aliases_file)

    @property
    def urls(self) -> list[str]:
        """Addresses of the servers."""
        given = self.servers.strip() or client_settings().url
        return [url.strip() for url in given.split(",") if url.strip()]

    @property
    def voices_folder(self) -> Path:
        return self.voices or client_settings().voices

    @property
    def allowed_origins(self) -> list[str]:
        return [origin.strip() for origin in self.origins.split(",") if origin.strip()]

    @property
    def allowed_hosts(self) -> list[str]:
        return [name.strip().lower() for name in self.hosts.split(",") if name.strip()]

    @property
    def hashes(self) -> frozenset[str]:
        """SHA-256 of every key."""
        lines = self.key_hashes.split(",")
        if self.keys_file:
            lines += self.keys_file.read_text("utf-8").splitlines()
        return frozenset(line.split()[0] for line in lines if line.strip() and line[0] != "#")


def read_settings(**given: Any) -> Settings:
    """Parse the environment; `given` comes before it.

    Raises:
        ConfigurationError: Names the variable that is wrong, and what was expected.
    """
    try:
        found = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = str(first["loc"][0]).upper().removeprefix(PREFIX)
        expected = first["msg"].replace("Input should be", "expected")
        raise ConfigurationError(f"{PREFIX}{variable} is {first['input']!r}, {expected}") from None
    _check(found)
    return found


def _check(found: Settings) -> None:
    for url in found.urls:
        if not _SERVER.fullmatch(url):
            raise ConfigurationError(
                f"{PREFIX}SERVERS has {url!r}, expected HOST:PORT or dns:///NAME:PORT"
            )
    if "*" in found.allowed_origins:
        raise ConfigurationError(f"{PREFIX}ORIGINS is *, expected the origins that may call")
    try:
        hashes = found.hashes
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{PREFIX}KEYS_FILE: {error}") from None
    if wrong := [line for line in hashes if not _SHA256.fullmatch(line)]:
        raise ConfigurationError(
            f"{len(wrong)} of {len(hashes)} keys are no SHA-256 in hexadecimal. Make a key with: "
            "python -m gateway key"
        )
    if not (hashes or found.open or is_loopback(found.host)):
        raise ConfigurationError(
            f"{found.host} is reached from other machines, and there are no keys: give "
            f"{PREFIX}KEYS_FILE, or {PREFIX}OPEN=true if a proxy in front asks for them"
        )
    _ = found.aliases


@functools.cache  # asked with every request
def _aliases(path: Path) -> Aliases:
    try:
        return Aliases.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigurationError(
            f"{path}: {where}: {first['msg']}; expected `voices` (alias: voice) and `models`"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether a name or an address, without brackets, is this machine for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
