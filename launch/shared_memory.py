"""Whether /dev/shm has room for what goes from model to model: recordings, codes and audio."""

import shutil

from launch.run_folder import SHARED_MEMORY

ENOUGH = 512 * 2**20  # bytes; each model's process takes 2 MB, and a recording of a minute 60 MB
REMEDY = (
    "docker run --shm-size=1g (compose: shm_size: 1gb); in Kubernetes an emptyDir with "
    "medium: Memory, mounted at /dev/shm; elsewhere: mount -o remount,size=1g /dev/shm"
)


def shortage() -> str:
    """What is wrong with the size of /dev/shm, or ""."""
    try:
        size = shutil.disk_usage(SHARED_MEMORY).total
    except OSError as error:
        return f"{SHARED_MEMORY}: {error.strerror}"
    if size >= ENOUGH:
        return ""
    return (
        f"{SHARED_MEMORY} has {size / 2**20:.0f} MB, and all models share it: with less than "
        f"{ENOUGH / 2**20:.0f} MB long recordings and many callers are refused"
    )
