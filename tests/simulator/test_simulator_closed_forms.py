"""The simulation against queueing theory, and against arithmetic."""

from __future__ import annotations

import pytest
import simpy

from prfaas.capacity import Curve, DecodeRate, KVSize, LengthSketch
from prfaas.capacity.queueing import mean_wait_seconds
from prfaas.planner import Link
from prfaas.simulator import Demand, Network, Outputs, Poisson, PoolDetails, RouterKind, simulate
from prfaas.simulator.fluid import SharedServer
from prfaas.simulator.links import LinkStation, connection_bits_per_second
from tests.simulator.simulator_scenarios import OPTIONS, close, constant, one_site, settings, two_sites


def test_one_prefill_instance_is_m_d_1() -> None:
    """Pollaczek and Khinchine: the wait of M/D/1 is load·S / 2(1 - load)."""
    load, service = 0.7, 0.5
    problem = one_site(arrivals_per_second=load / service, prefill=constant(service))
    result = simulate(problem, OPTIONS, settings(duration_seconds=30_000, warm_up_seconds=1_000))
    expected = service + load * service / (2 * (1 - load)) + 0.001
    assert close(result.total.ttft_seconds.mean, expected, 0.03)
    assert close(result.pools[0].utilisation, load, 0.02)


def test_prefill_of_several_instances_is_m_d_c_within_its_approximation() -> None:
    servers, service, rate = 4, 1.0, 3.4
    problem = one_site(arrivals_per_second=rate, prefill=constant(service), prefill_instances=servers)
    result = simulate(problem, OPTIONS, settings(duration_seconds=12_000, warm_up_seconds=1_000))
    wait = mean_wait_seconds(servers, rate, service, service_variation=0.0)
    assert result.total.ttft_seconds.mean is not None
    assert result.total.ttft_seconds.mean - service - 0.001 == pytest.approx(wait, rel=0.12)


def test_waiting_for_a_decode_slot_is_erlang_c() -> None:
    """Geometric outputs at a fixed pace are exponential service, so slots are an M/M/c queue."""
    slots, step, tokens, rate = 8, 0.01, 100, 7.0
    problem = one_site(arrivals_per_second=rate, prefill_instances=10, decode=DecodeRate(step, slots, tokens))
    result = simulate(problem, OPTIONS, settings(duration_seconds=6_000, warm_up_seconds=500))
    expected = mean_wait_seconds(slots, rate, step * tokens, service_variation=1.0) + 0.001 + step
    assert close(result.total.ttft_seconds.mean, expected, 0.05)
    decode = result.pools[1]
    assert close(decode.utilisation, rate * step * tokens / slots, 0.02)


def test_a_link_is_shared_like_m_g_1_processor_sharing() -> None:
    """The mean time in the system is S / (1 - load), whatever the spread of sizes."""
    kv = KVSize.per_token(1000.0, to_tokens=1e6)
    problem = two_sites(
        arrivals_per_second=4.0,
        remote=constant(1e-6),
        kv=kv,
        rtt_seconds=0.0,
        bits_per_second=0.64e9,
        sizes=(20, 20, 2),
    )
    alone = kv.mean(problem.decode_pools[0].lengths, 0, 1e9) * 8 / 0.64e9
    load = alone * 4.0
    result = simulate(
        problem,
        OPTIONS,
        settings(RouterKind.REMOTE, duration_seconds=8_000, warm_up_seconds=500, step_in_first_token=False),
    )
    assert 0.3 < load < 0.5
    assert close(result.total.ttft_seconds.mean, alone / (1 - load), 0.04)
    assert close(result.links[0].utilisation, load, 0.02)


def test_time_to_first_token_of_an_idle_system_is_the_planners_formula() -> None:
    """Prefill or transfer, whichever takes longer, the round trip and one decode step."""
    for seconds, bits, longest in ((2.0, 1e9, 2.0), (0.1, 1e7, 1000 * 1024 * 8 / 1e7)):
        problem = two_sites(
            arrivals_per_second=0.001,
            remote=constant(seconds),
            bits_per_second=bits,
            prompt_lengths=LengthSketch.of([1024.0]),
        )
        result = simulate(problem, OPTIONS, settings(RouterKind.REMOTE, duration_seconds=50_000))
        assert result.total.ttft_seconds.count > 10
        assert result.total.ttft_seconds.mean == pytest.approx(longest + 0.05 + 0.01, rel=0.05)


def test_rates_lengths_and_outputs_are_those_that_were_asked_for() -> None:
    problem = one_site(arrivals_per_second=0.25, prompt_lengths=LengthSketch.of([100.0, 1000.0, 10000.0]))
    for pattern in (
        {"kind": "Poisson"},
        {"kind": "Bursty", "factor": 8, "burstSeconds": 20, "quietSeconds": 100},
        {"kind": "Diurnal", "peakHour": 3, "troughShare": 0.1},
    ):
        result = simulate(
            problem,
            OPTIONS,
            settings(duration_seconds=86_400, demand={"d": {"pattern": pattern}}),
        )
        assert result.total.arrived / 86_400 == pytest.approx(0.25, rel=0.07), pattern
        assert result.output_tokens_per_second == pytest.approx(0.5, rel=0.08), pattern


def test_bursts_make_queues_longer_than_independent_arrivals_do() -> None:
    problem = one_site(arrivals_per_second=1.2, prefill=constant(0.5))
    calm, bursty = (
        simulate(problem, OPTIONS, settings(duration_seconds=8_000, demand={"d": {"pattern": pattern}}))
        for pattern in ({"kind": "Poisson"}, {"kind": "Bursty", "factor": 6})
    )
    assert calm.total.ttft_seconds.mean is not None
    assert bursty.total.ttft_seconds.mean is not None
    assert bursty.total.ttft_seconds.mean > 3 * calm.total.ttft_seconds.mean


def test_batches_pay_the_fixed_part_of_a_prefill_once() -> None:
    curve = Curve.polynomial(1.0, 1e-4, to_tokens=1e5)
    problem = one_site(arrivals_per_second=0.95, prefill=curve)
    alone, together = (
        simulate(problem, OPTIONS, settings(duration_seconds=5_000, queue_seconds_max=1e6, pools=pools))
        for pools in ({}, {"p": PoolDetails(batch_tokens=8_192)})
    )
    assert alone.total.ttft_seconds.mean is not None
    assert together.total.ttft_seconds.mean is not None
    assert together.total.ttft_seconds.mean < alone.total.ttft_seconds.mean / 5


def test_a_decode_step_grows_with_the_batch() -> None:
    decode = DecodeRate(0.04, 50, 100)
    problem = one_site(arrivals_per_second=1.0, prefill_instances=10, decode=decode)
    constant_outputs = {"d": Demand(pattern=Poisson(), outputs=Outputs.CONSTANT)}
    slow, fast = (
        simulate(problem, OPTIONS, settings(duration_seconds=5_000, demand=constant_outputs, pools=pools))
        for pools in ({}, {"d": PoolDetails(step_seconds_alone=0.01)})
    )
    assert slow.total.total_seconds.mean == pytest.approx(0.001 + 4.0, rel=0.01)
    assert fast.total.total_seconds.mean is not None
    assert 1.0 < fast.total.total_seconds.mean < 2.0


def test_jobs_share_equally_and_are_done_in_time() -> None:
    env = simpy.Environment()
    done: list[tuple[str, float]] = []
    server: SharedServer[str] = SharedServer(
        env, lambda inside: 10 / inside, lambda job: done.append((job, env.now))
    )
    server.add("long", 100)
    env.run(until=4)
    server.add("short", 15)
    env.run(until=6)
    assert server.remove("long") == pytest.approx(100 - 40 - 10)
    env.run()
    # Of the 15, 10 were done at half the pace by second 6, and the other 5 alone.
    assert done == [("short", pytest.approx(6.5))]
    assert server.work_done == pytest.approx(40 + 20 + 5)
    assert server.occupied_seconds() == pytest.approx(4 + 2 * 2 + 0.5)


def test_a_server_that_stands_still_goes_on_where_it_was() -> None:
    env = simpy.Environment()
    pace = [10.0]
    done: list[float] = []
    server: SharedServer[int] = SharedServer(
        env, lambda inside: pace[0] / inside, lambda _: done.append(env.now)
    )
    server.add(1, 100)
    env.run(until=5)
    pace[0] = 0.0
    server.pace_changed()
    env.run(until=50)
    pace[0] = 50.0
    server.pace_changed()
    env.run()
    assert done == [pytest.approx(51.0)]


def test_loss_and_round_trip_bound_one_transfer() -> None:
    network = Network(loss_share=1e-4, connections=8)
    bound = connection_bits_per_second(0.1, network)
    assert bound == pytest.approx(8 * 1460 * 8 / 0.1 * 1.2247 / 0.01, rel=1e-3)
    env = simpy.Environment()
    landed: list[float] = []
    link = LinkStation(
        env, Link("l", "a", "b", 1e12, rtt_seconds=0.1), network, lambda _: landed.append(env.now)
    )
    assert link.next_bits_per_second() == pytest.approx(bound)
    assert connection_bits_per_second(0.1, Network()) == float("inf")
