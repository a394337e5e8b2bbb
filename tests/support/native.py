"""Whether the server that tests start is the system's, whose backends are native."""

import pytest

from launch import tritonserver

stand_ins = pytest.mark.skipif(
    tritonserver.of_the_system() is not None,
    reason="the stand-ins' words: this machine's own tritonserver has native backends",
)
