"""Generates the profiles of the models that run on the CPU or on GPUs.

Triton reads a profile, `configs/<profile>.pbtxt`, in the place of config.pbtxt, so it has to repeat
all of it. Each is generated from config.pbtxt and from what PROFILES says differs.
`python -m ensemble.check` compares the committed files, and `--write-profiles` writes them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEFAULT = "# Serves as it is, everywhere: KIND_AUTO is a GPU where there is one.\n"
_BACKEND = re.compile(r'^backend: ".*"\n', re.MULTILINE)
_INSTANCES = re.compile(r"^instance_group .*\n", re.MULTILINE)
_TF32 = re.compile(r"(?:^#.*\n)+^optimization \{(?:.*\n)+?^\} \}\n", re.MULTILINE)
_DELAY = re.compile(r"^  # .*\n  max_queue_delay_microseconds: .*\n", re.MULTILINE)
_KERNELS = re.compile(r'(?:^#.*\n)+^parameters \{ key: "KERNELS_FILENAME".*\n', re.MULTILINE)


@dataclass(frozen=True)
class Profile:
    """What differs from a model's config.pbtxt.

    Attributes:
        about: What it is for; ends the sentence "Profile: ...".
        instances: The instance group.
        backend: Where it is another one.
        kernels: Whether the file of this project's CPU operators is served where it can be.
        parameters: Lines behind the rest of the file.
    """

    about: str
    instances: str
    backend: str = ""
    kernels: bool = False
    parameters: str = ""


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


_CPU, _FIRST_GPU, _GPUS = "kind: KIND_CPU", "kind: KIND_GPU, gpus: [ 0 ]", "kind: KIND_GPU"
# Measured on a GPU: benchmarks/LOG.md, 2026-11-26.
_UNFUSED = (
    "# Otherwise TorchScript's fuser compiles for each new shape: for seconds, or in the\n"
    "# encoder's loop for minutes.\n" + _parameter("DISABLE_OPTIMIZED_EXECUTION", "true")
)
# Not measured on a GPU: docs/measured.md.
_NO_DELAY = (
    "  # Nothing waits while the GPU is idle: what comes meanwhile is the next batch.\n"
    "  max_queue_delay_microseconds: 0\n"
)
_ALL_CORES = (
    "# 0: ONNX Runtime chooses. One instance that uses all cores is faster than several\n"
    "# that compete for them.\n" + _parameter("intra_op_thread_count", "0")
)
PROFILES = {
    "fish_llama": {
        "cpu": Profile("no GPU.", f"count: 1, {_CPU}"),
        "gpu": Profile("one GPU.", f"count: 1, {_FIRST_GPU}"),
        "gpu_multi": Profile("one engine on every GPU.", f"count: 1, {_GPUS}"),
    },
    "fish_decoder": {
        "cpu": Profile(
            "no GPU.",
            f"count: 1, {_CPU}",
            kernels=True,
            # Not TorchScript, though about a seventh faster: windows come in many shapes, and
            # libtorch 2.5, which native backends have, takes seconds for each new one.
            parameters=_ALL_CORES,
        ),
        "gpu": Profile(
            "one GPU; two instances, so that one's copies overlap with the other's computation.",
            f"count: 2, {_FIRST_GPU}",
            backend="pytorch",
            parameters=_UNFUSED,
        ),
        "gpu_multi": Profile(
            "every GPU has two instances.",
            f"count: 2, {_GPUS}",
            backend="pytorch",
            parameters=_UNFUSED,
        ),
    },
    "fish_encoder": {
        "cpu": Profile(
            "no GPU.",
            f"count: 1, {_CPU}",
            kernels=True,
            parameters=_ALL_CORES,
        ),
        "gpu": Profile(
            "one GPU, shared with the other stages.",
            f"count: 1, {_FIRST_GPU}",
            backend="pytorch",
            parameters=_UNFUSED,
        ),
        "gpu_multi": Profile(
            "every GPU has an instance.", f"count: 1, {_GPUS}", backend="pytorch",
            parameters=_UNFUSED,
        ),
    },
}  # fmt: skip


def profile_text(config: str, profile: Profile) -> str:
    """The text of a profile's file.

    Args:
        config: The text of config.pbtxt.
        profile: What differs.

    Raises:
        ValueError: If config.pbtxt has no place for it.
    """
    changes = [
        (re.compile(re.escape(_DEFAULT)), f"# Profile: {profile.about}\n"),
        (_INSTANCES, f"instance_group [ {{ {profile.instances} }} ]\n"),
    ]
    if profile.backend:
        changes.append((_BACKEND, f'backend: "{profile.backend}"\n'))
    if (profile.backend or _CPU in profile.instances) and _TF32.search(config):
        changes.append((_TF32, ""))  # is ONNX Runtime's on a GPU
    if "KIND_GPU" in profile.instances and _DELAY.search(config):
        changes.append((_DELAY, _NO_DELAY))
    if not profile.kernels and _KERNELS.search(config):
        changes.append((_KERNELS, ""))
    for pattern, new in changes:
        config, count = pattern.subn(lambda _, new=new: new, config)
        if count != 1:
            raise ValueError(f"has {count} places for {new.strip()!r}, expected 1")
    return config + profile.parameters


def profile_paths(repository: Path) -> Iterator[tuple[Path, Path, Profile]]:
    """Each config.pbtxt that has profiles, with the path of each profile and what differs in it."""
    for name, profiles in PROFILES.items():
        config = repository / name / "config.pbtxt"
        for profile, differs in profiles.items():
            if config.is_file():
                yield config, config.parent / "configs" / f"{profile}.pbtxt", differs


def write_profiles(repository: Path) -> None:
    """Write every profile of a model repository."""
    for config, path, differs in profile_paths(repository):
        path.parent.mkdir(exist_ok=True)
        path.write_text(profile_text(config.read_text("utf-8"), differs), encoding="utf-8")


def profile_differences(repository: Path) -> Iterator[str]:
    """Profiles that are not what their config.pbtxt gives."""
    for config, path, differs in profile_paths(repository):
        try:
            wanted = profile_text(config.read_text("utf-8"), differs)
        except ValueError as error:
            yield f"{config}: {error}"
            continue
        if not path.is_file() or path.read_text("utf-8") != wanted:
            yield (
                f"{path}: is not what config.pbtxt and ensemble/check/profiles.py give. "
                "Write it with: python -m ensemble.check --write-profiles"
            )
