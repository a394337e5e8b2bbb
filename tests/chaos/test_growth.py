"""What grows during a soak is told from what an allocator takes once."""

import pytest

from support.chaos.soak import slopes


def soaked(minutes: float, a_minute: float, jumps: dict[float, float] | None = None, grain=0.13):
    """MB of one process, looked at every two seconds; what it leaks comes in grains of MB."""
    samples = []
    for second in range(0, int(minutes * 60), 2):
        leaked = a_minute * second / 60 // grain * grain
        jumped = sum(mb for at, mb in (jumps or {}).items() if second / 60 >= at)
        samples.append((float(second), {"stub": {"MB": 350 + leaked + jumped}}))
    return slopes(samples)["stub: MB"]


# Minutes and MB; the first is what `fish_decoder` took in a soak of three minutes.
JUMPS = [{2.3: 5.0}, {1.4: 60.0}, {1.5: 9.0, 2.5: -9.0}, {}]


@pytest.mark.parametrize("jumps", JUMPS, ids=str)
@pytest.mark.parametrize("minutes", [3, 30])
def test_a_jump_is_no_leak_and_hides_none(minutes: float, jumps: dict[float, float]) -> None:
    assert abs(soaked(minutes, 0.0, jumps)) < 0.5
    assert soaked(minutes, 2.5, jumps) == pytest.approx(2.5, abs=0.4)


def test_jumps_that_come_again_are_a_leak() -> None:
    assert soaked(3, 0.0, {1.3: 5.0, 2.0: 5.0, 2.7: 5.0}) > 2.0
