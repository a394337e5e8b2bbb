"""A wall clock that jumps, for the processes of one server only."""

import contextlib
import mmap
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.chaos.world import ASKED, BACK_S, Listener, Row, World, served, since

# Put before the C library: adds what a file says, in seconds, to every wall clock that is read.
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile double *ahead;
__attribute__((constructor)) static void look(void) {
    const char *path = getenv("VOICEREEL_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) ahead = page;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*genuine)(clockid_t, struct timespec *);
    if (!genuine) genuine = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = genuine(clock, now);
    if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)*ahead;
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *into) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (into) *into = precise.tv_sec;
    return precise.tv_sec;
}
// The kernel's own clock has not jumped, and it is what a deadline is compared with.
static struct timespec kernels(const struct timespec *deadline) {
    struct timespec moved = *deadline;
    if (ahead && moved.tv_sec > 1000000000) moved.tv_sec -= (time_t)*ahead;  // else monotonic
    return moved;
}
#define TIMED(name, parameters, arguments) \
    int name parameters { \
        static int (*genuine) parameters; \
        if (!genuine) genuine = dlsym(RTLD_NEXT, #name); \
        struct timespec moved = kernels(deadline); \
        return genuine arguments; \
    }
TIMED(pthread_mutex_timedlock, (pthread_mutex_t *mutex, const struct timespec *deadline),
      (mutex, &moved))
TIMED(pthread_cond_timedwait,
      (pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline),
      (condition, mutex, &moved))
TIMED(sem_timedwait, (sem_t *semaphore, const struct timespec *deadline), (semaphore, &moved))
"""
_JUMPS_S = (3600.0, -86_400.0, 10 * 365 * 86_400.0, 0.0)


def can_jump() -> str:
    """Why no clock can be moved here; "" if it can."""
    return "" if shutil.which("gcc") else "there is no C compiler"


def jumps(repository: Path, folder: Path) -> Row:
    """The clock goes an hour ahead, a day back and ten years ahead, under a stream each time."""
    row = Row("clock that jumps", limit_s=BACK_S)
    with _movable(folder) as (variables, move), served(repository, environment=variables) as world:
        with world.client() as client:
            alone = client.synthesize("The clock.", max_new_tokens=8, **ASKED).waveform
        pids = world.server, world.proxy
        for ahead_s in _JUMPS_S:
            row.tries += 1
            listener = Listener(world)
            listener.heard.wait(20)
            begin = time.monotonic()
            move(ahead_s)
            row.lost += listener.join(60) != "whole"
            with world.client(timeout_s=20) as client:
                spoken = client.synthesize("The clock.", max_new_tokens=8, **ASKED).waveform
            row.lost += spoken.shape != alone.shape or bool((spoken != alone).any())
            row.lost += world.status() != 200
            row.notes.append(f"{ahead_s:+g} s: {listener.outcome} after {_since(begin):.1f} s")
        time.sleep(4)  # for the supervisor's next look
        row.lost += (world.server, world.proxy) != pids
        row.lost += not _moved(world)
        row.recovery_s = since(world.speaks, time.monotonic(), 30)
    return row


def _since(begin: float) -> float:
    return time.monotonic() - begin


def _moved(world: World) -> bool:
    """Whether the server's processes had the clock that jumped."""
    maps = Path(f"/proc/{world.server}/maps").read_text()
    return "clock.so" in maps


@contextlib.contextmanager
def _movable(folder: Path) -> Iterator[tuple[dict[str, str], Callable[[float], None]]]:
    """Variables of processes whose clock can be moved, and what moves it, in seconds from now."""
    folder.mkdir(parents=True, exist_ok=True)
    library, page = folder / "clock.so", folder / "clock"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=_SHIM, text=True, check=True)
    page.write_bytes(bytes(8))
    with page.open("r+b") as file, mmap.mmap(file.fileno(), 8) as held:
        yield (
            {"LD_PRELOAD": str(library), "VOICEREEL_TEST_CLOCK": str(page)},
            lambda ahead_s: held.__setitem__(slice(0, 8), struct.pack("<d", ahead_s)),
        )
