"""A file of the codec on kernels: where it fits, and which windows it refuses."""

from itertools import combinations_with_replacement

import numpy as np
import pytest

from engine.codec import package

INPUTS = ["codes", "new_frames"]
HERE = package.description(INPUTS, "bfloat16", (), codebooks=10, frames=256, samples_per_frame=2048)


def test_what_is_made_here_is_fit_here() -> None:
    for precision, asked in combinations_with_replacement(package.PRECISIONS, 2):
        assert package.unfit({**HERE, "precision": precision}, INPUTS, asked) is None


@pytest.mark.parametrize(
    ("changed", "asked", "reason"),
    [
        (
            {"instructions": "amx_of_tomorrow"},
            "int8",
            "it was made for a CPU with amx_of_tomorrow: export it again here",
        ),
        ({}, "float32", "it computes in bfloat16, and float32 is asked for"),
        ({"precision": "int8"}, "bfloat16", "it computes in int8, and bfloat16 is asked for"),
        ({"precision": "fp8"}, "int8", "it computes in fp8, and int8 is asked for"),
        ({"format": "0"}, "int8", "it is of another version: export it again"),
        ({"inputs": "codes"}, "int8", "it takes 'codes', config.pbtxt says 'codes new_frames'"),
    ],
)
def test_what_another_machine_made_is_not(changed, asked, reason) -> None:
    assert (package.unfit({**HERE, **changed}, INPUTS, asked) or "").startswith(reason)


WINDOWS = {  # codebooks, frames, first new frame, new frames
    "too few codebooks": (8, 40, 0, 40),
    "more new frames than codes": (10, 5, 0, 9),
    "beyond the last position": (10, 3, 5000, 3),
    "too many frames": (10, 300, 0, 300),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_that_would_read_beyond_the_tables_are_refused(case) -> None:
    books, frames, first, new = WINDOWS[case]
    codes, numbers = np.zeros((1, books, frames)), np.arange(first, first + new)[None]
    with pytest.raises(ValueError, match="expected"):
        package.refuse_window(HERE, codes, numbers)
    package.refuse_window(HERE, np.zeros((1, 10, 12)), np.arange(8, 12)[None])
