"""What nvidia-smi says of the GPU."""

import subprocess


def query(field: str) -> str | None:
    """One field, of the first GPU; None where there is no such program or no GPU.

    Args:
        field: As `nvidia-smi --help-query-gpu` names it.
    """
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip().splitlines()[0] if said.stdout.strip() else None
