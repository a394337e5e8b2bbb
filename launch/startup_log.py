r"""Reads from tritonserver's log why it does not serve, in one line.

A line of the log, in which line breaks of the message are written as `\n`:
`E1123 01:17:15.121029 9108 model_lifecycle.cc:642] "failed to load 'm' version 1: why"`
"""

import contextlib
import re
import signal
from pathlib import Path

# The most telling first; each captures the model, where the message has it, and the reason.
_REASONS = (
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)"),
    re.compile(r"failed to load model '(?P<model>[^']+)': (?P<reason>.*)"),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)"),
    re.compile(r"(?P<model>)Invalid argument: (?P<reason>ensemble .*)"),
    re.compile(r"(?P<model>)(?P<reason>failed to start .* service: .*)"),
    re.compile(r"(?P<model>).*tritonserver: (?P<reason>unrecognized option .*)"),
)
_MESSAGE = re.compile(r'^[EWI]\d{4} \S+ +\d+ [^]]+\] *"?(.*?)"?$', re.MULTILINE)
_ERROR_KINDS = re.compile(
    r"^((Internal|Invalid argument|Unavailable|FileNotFoundError|ValueError|RuntimeError): )+"
)
# A native backend's message; the Python-based backends add the command themselves.
_NATIVE_MISSING = re.compile(r"unable to find '[^']+/model\.(onnx|pt)'")
LAST_LINES = 5  # of a log that are told
_MAKE_IT = "Make it with: make export CHECKPOINT=DIR"


def why_it_ended(log: Path, status: int) -> str:
    """The reason that a server gave before it ended with an exit status (negative: a signal)."""
    text = log.read_text("utf-8", errors="replace")
    failures = _failures(text)
    if failures:
        (model, reason), *others = failures.items()
        names = ", ".join(name for name, _ in others if name)
        first = reason if not model or reason.startswith(model) else f"{model}: {reason}"
        also = f" (also failed: {names})" if names else ""
        return f"{first}{also}. Log: {log}"
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    last = (text.strip().splitlines() or ["the log is empty"])[-1]
    return f"tritonserver ended with {ended}: {_shorten(last)}. Log: {log}"


def what_it_waits_for(log: Path) -> str:
    """The models that a server has begun to load and not finished, or why they failed."""
    text = log.read_text("utf-8", errors="replace")
    loading = re.findall(r"\"loading: (\S+):\d+\"", text)
    done = set(re.findall(r"successfully loaded '([^']+)'", text))
    waiting = ", ".join(name for name in loading if name not in done)
    failures = "; ".join(f"{model}: {reason}" for model, reason in _failures(text).items())
    return f"{failures or f'still loading: {waiting}'}. Log: {log}"


def last_lines(log: Path) -> str:
    """The last lines of a log, or "" if there is none."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:])
    return ""


def keep(log: Path) -> None:
    """Rename a log, as the next start writes a new one: `server.log` to `server.log.1`."""
    with contextlib.suppress(OSError):
        log.replace(log.with_name(f"{log.name}.1"))


def _failures(text: str) -> dict[str, str]:
    """Reasons by model, without failures that only follow from another model's."""
    messages = [m.group(1) for m in _MESSAGE.finditer(text)] + text.splitlines()[:1]
    found: dict[str, str] = {}
    for pattern in _REASONS:
        for match in filter(None, map(pattern.match, messages)):
            consequence = "loading failed with error" in match["reason"]
            if not (consequence and found):
                found.setdefault(match["model"], _shorten(match["reason"]))
    return found


def _shorten(reason: str) -> str:
    """The reason in one line, without Python's traceback and Triton's names of error kinds."""
    reason = reason.split("\\n\\nAt:")[0].replace("\\n", " ")
    reason = _ERROR_KINDS.sub("", reason).strip().rstrip(".")
    reason = reason.replace("is not healthy", "ended while it loaded the model")
    return f"{reason}. {_MAKE_IT}" if _NATIVE_MISSING.search(reason) else reason
