"""The simulation of many replicas: what must hold in any of its runs."""

from dataclasses import dataclass

import pytest

from benchmarks.capacity.router import POLICIES
from benchmarks.capacity.simulation import (
    MEAN_FRAMES,
    Outcome,
    Scenario,
    poisson,
    rate_for,
    real_time_streams,
    simulate,
    speech,
)
from voicereel.capacity import machines


@dataclass(frozen=True)
class Fixed:
    """A replica whose step takes 10 ms for one stream and 2 ms more for each further one."""

    slots: int = 4

    def step_s(self, streams: float) -> float:
        return 0.008 + 0.002 * streams

    def first_s(self, streams: float, *, p95: bool) -> float:
        return 8 * self.step_s(streams) + 0.02


def once(scenario: Scenario, *arrivals: tuple[float, int]) -> Outcome:
    return simulate(scenario, arrivals)


def test_one_request_takes_its_steps() -> None:
    [request] = once(Scenario(Fixed(), 1), (1.0, 20)).requests
    assert request.first_s == pytest.approx(8 * 0.010 + 0.02)


def test_more_requests_than_slots_wait() -> None:
    found = once(Scenario(Fixed(), 1), *[(0.0, 20)] * 5).requests
    assert [r.first_s for r in found[:4]] == [pytest.approx(0.148, abs=0.011)] * 4
    waited = 0.010 + 20 * 0.016  # the first step is taken alone, the others by four
    assert found[4].first_s == pytest.approx(waited + 8 * 0.010 + 0.02, abs=0.02)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_all_and_runs_are_equal(policy: str) -> None:
    arrivals = poisson(20.0, 5, lambda rng: rng.randrange(10, 60), 1)
    runs = [simulate(Scenario(Fixed(), 4, policy, gateways=2, seed=3), arrivals) for _ in range(2)]
    assert runs[0].requests == runs[1].requests and len(runs[0].requests) == len(arrivals)
    assert runs[0].failed == 0 and max(n for _, n in runs[0].in_flight) > 1


def test_what_had_no_audio_is_repeated_and_the_rest_is_cut() -> None:
    arrivals = (0.0, 200), (0.95, 200)  # the second has had no audio when both replicas die
    scenario = Scenario(Fixed(), 2, deaths=((1.0, 0, 1.0), (1.0, 1, 0.5)), repeats=True)
    first, second, third = once(scenario, *arrivals, (1.7, 10)).requests
    assert first.cut and second.first_s is None  # no replica was up
    assert third.first_s is not None  # one is back
    scenario = Scenario(Fixed(), 3, deaths=((1.0, 0, 9.0), (1.0, 1, 9.0)))
    late = once(scenario, *[(0.95, 200)] * 3).requests
    assert [r.first_s is not None and not r.cut for r in late] == [True] * 3
    assert max(r.tries for r in late) == 2
    scenario = Scenario(Fixed(), 3, deaths=((1.0, 0, 9.0), (1.0, 1, 9.0)), repeats=False)
    assert once(scenario, *[(0.95, 200)] * 3).failed == 2


def test_a_replica_that_hangs_holds_its_requests_until_it_is_noticed() -> None:
    scenario = Scenario(Fixed(), 2, deaths=((1.0, 0, 9.0), (1.0, 1, 0.5)), notices_s=2.0)
    [request] = once(scenario, (0.99, 100)).requests
    assert request.first_s is None or request.first_s > 2


def test_least_in_flight_beats_random_near_the_limit() -> None:
    served = machines()["h200-half"]
    arrivals = poisson(rate_for(served, 6, 0.9, MEAN_FRAMES), 8, speech, 1)
    p95 = {
        policy: simulate(Scenario(served, 6, policy), arrivals).first_audio(0.95)
        for policy in ("random", "least in flight")
    }
    assert p95["least in flight"] < p95["random"]
    assert real_time_streams(served) == served.real_time_streams()
