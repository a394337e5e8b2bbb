"""Which doors there are, and which of them are closed unless the operator opens them."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from grpc import StatusCode

from ensemble.contract.tensors import FRONT_DOORS, MODELS
from proxy.refusals import Refusal
from proxy.tensors import OPEN_MODELS

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
# As Triton's --http-restricted-api and --grpc-restricted-protocol take KEY=VALUE.
KEY_HEADER = "admin-key"
KEY_METADATA = f"triton-grpc-protocol-{KEY_HEADER}"
INNER = "inner"
GROUPS = ("shared-memory", "logging", "trace", "model-control", "repository", INNER)
_OPEN = ""  # the group of what needs no opening
READY = ("ServerLive", "ServerReady", "ModelReady")
_METHODS = {
    **dict.fromkeys((*READY, "ServerMetadata", "ModelMetadata", "ModelConfig"), _OPEN),
    **dict.fromkeys(("ModelStatistics", "ModelInfer", "ModelStreamInfer"), _OPEN),
    "RepositoryIndex": "repository",
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), "model-control"),
    **{
        f"{kind}SharedMemory{verb}": "shared-memory"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "trace",
    "LogSettings": "logging",
}
_MODEL = r"/v2/models/(?P<model>[A-Za-z0-9_.:-]{1,200})(?:/versions/[0-9]{1,18})?"
_PATHS = [  # method, path, kind, group
    ("GET", r"/v2/health/(?:live|ready)", "health", _OPEN),
    ("GET", r"/v2/models/stats", "other", _OPEN),
    ("GET", _MODEL + "/ready", "model_ready", _OPEN),
    ("GET", r"/v2/?", "other", _OPEN),
    ("GET", _MODEL + r"(?:/config|/stats)?", "other", _OPEN),
    ("POST", _MODEL + r"/(?P<how>infer|generate|generate_stream)", "infer", _OPEN),
    ("POST", r"/v2/repository/index", "other", "repository"),
    ("POST", r"/v2/repository/models/[A-Za-z0-9_.:-]{1,200}/(?:load|unload)", "other",
     "model-control"),
    ("GET|POST", r"/v2/logging", "other", "logging"),
    ("GET|POST", r"/v2(?:/models/[A-Za-z0-9_.:-]{1,200})?/trace/setting", "other", "trace"),
    ("GET|POST", r"/v2/(?:system|cuda)sharedmemory(?:/region/[^/?%]{1,200})?"
     r"/(?:status|register|unregister)", "other", "shared-memory"),
]  # fmt: skip


@dataclass(frozen=True)
class Door:
    """One thing that a caller can ask for.

    Attributes:
        kind: health, model_ready, infer, or other: passed on as it is.
        model: The model it names, or "".
        how: infer, generate or generate_stream.
    """

    kind: str
    model: str = ""
    how: str = ""


class Doors:
    """What is open.

    Attributes:
        open: The groups that the operator opened.
    """

    def __init__(self, opened: frozenset[str] = frozenset(), key: str = "") -> None:
        """`key` opens everything to a caller that has it; "": no caller can."""
        self.open, self._key = opened, key.encode()

    def has_key(self, headers: Mapping[str, str | bytes]) -> bool:
        """Whether headers or metadata (names in small letters) hold the key."""
        given = headers.get(KEY_HEADER) or headers.get(KEY_METADATA) or ""
        given = given if isinstance(given, bytes) else given.encode("utf-8", "replace")
        return bool(self._key) and hmac.compare_digest(given, self._key)

    def is_open(self, group: str, headers: Mapping[str, str | bytes]) -> bool:
        """Whether a group is open to a caller with these headers."""
        return group in self.open or self.has_key(headers)

    def http(self, method: str, path: str, headers: Mapping[str, str | bytes]) -> Door:
        """The door of an HTTP request.

        Raises:
            Refusal: If there is none, or it is closed.
        """
        for methods, pattern, kind, group in _PATHS:
            found = re.fullmatch(pattern, path)
            if found and method in methods.split("|"):
                self._require(group, f"{method} {path}", headers)
                named = found.groupdict()
                return Door(kind, named.get("model") or "", named.get("how") or "")
        raise Refusal(
            "unknown",
            f"proxy: there is no {method[:16]} {path[:200]}. Expected a path of Triton's protocol, "
            "such as POST /v2/models/fish_tts/infer",
            StatusCode.NOT_FOUND,
        )

    def grpc(self, method: str, headers: Mapping[str, str | bytes]) -> str:
        """The name of a gRPC method, "" if there is none.

        Args:
            method: /SERVICE/NAME.
            headers: The call's metadata.

        Raises:
            Refusal: If it is closed.
        """
        service, _, name = method.removeprefix("/").partition("/")
        if service == HEALTH and name == "Check":
            return name
        if service != SERVICE or name not in _METHODS:
            return ""
        self._require(_METHODS[name], name, headers)
        return name

    def model(self, model: str, headers: Mapping[str, str | bytes]) -> None:
        """Refuse work for a part of the front doors.

        Raises:
            Refusal: Says which models are open, and what opens this one.
        """
        if model in MODELS and model not in OPEN_MODELS and not self.is_open(INNER, headers):
            raise Refusal(
                INNER,
                f"{model}: this model is a part of others and takes work from them only. Ask "
                f"{', '.join(FRONT_DOORS)}, or start the proxy with --open {INNER}",
                StatusCode.PERMISSION_DENIED,
            )

    def _require(self, group: str, what: str, headers: Mapping[str, str | bytes]) -> None:
        if group != _OPEN and not self.is_open(group, headers):
            raise Refusal(
                "closed",
                f"proxy: {what[:200]} is closed to callers. Send the operator's key as the header "
                f"{KEY_HEADER} (gRPC: {KEY_METADATA}), or start the proxy with --open {group}",
                StatusCode.PERMISSION_DENIED,
            )
