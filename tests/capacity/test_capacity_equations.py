from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import DecodeRate, InvalidInputError, equations, paper
from prfaas.capacity.queueing import mean_wait_seconds, waiting_probability

rates = st.floats(0.001, 1000)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: equations.kv_throughput_bits_per_second(0, 1), "kv_bytes"),
        (lambda: equations.kv_throughput_bits_per_second(1, math.nan), "prefill_seconds"),
        (lambda: equations.egress_needed_bits_per_second(-1, 1, 1), "instances"),
        (lambda: equations.remote_prefill_throughput(1, 1, 1, -1), "egress_bits_per_second"),
        (lambda: equations.local_prefill_throughput(1, 0), "prefill_seconds"),
        (lambda: equations.decode_throughput(1, 0, 1, 1), "batch_max"),
        (lambda: equations.system_throughput(1, 1, 1, 1.5), "remote_share"),
        (lambda: equations.stage_imbalance(1, 1, math.inf), "decode"),
        (lambda: DecodeRate(0, 1, 1), "step_seconds"),
        (lambda: paper.two_site(local_instances=0), "local_instances"),
        (lambda: paper.two_site(egress_bits_per_second=math.nan), "egress_bits_per_second"),
        (lambda: paper.two_site().at(-1, 3), "threshold_tokens"),
        (lambda: paper.two_site().at(1, 9), "local_prefill_instances"),
        (lambda: waiting_probability(0, 1), "servers"),
    ],
)
def test_bad_arguments_are_named(call: object, field: str) -> None:
    assert callable(call)
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field


def test_an_error_seen_from_outside() -> None:
    error = InvalidInputError("sigma", "is 0", "give more").inside("lengths")
    assert str(error) == "lengths.sigma: is 0; give more"


@given(rates, rates, rates, st.floats(0.01, 0.99))
def test_eq_6_is_the_scarcest_stage(remote: float, local: float, decode: float, share: float) -> None:
    throughput = equations.system_throughput(remote, local, decode, share)
    assert throughput * share <= remote * (1 + 1e-9)
    assert throughput * (1 - share) <= local * (1 + 1e-9)
    assert throughput <= decode


@given(rates, st.floats(0.01, 0.99))
def test_eq_7_at_balance_makes_eq_8_the_common_value(limit: float, share: float) -> None:
    remote, local = limit * share, limit * (1 - share)
    assert equations.threshold_imbalance(remote, local, share) == pytest.approx(0, abs=1e-9 * limit)
    assert equations.stage_imbalance(remote, local, limit) == pytest.approx(0, abs=1e-9 * limit)


def test_an_empty_class_does_not_bind() -> None:
    assert equations.system_throughput(0, 2, 3, 0) == 2
    assert equations.system_throughput(2, 0, 3, 1) == 2
    assert equations.threshold_imbalance(1, 1, 0) == math.inf
    assert equations.threshold_imbalance(1, 1, 1) == -math.inf


def test_erlang_c_against_known_values() -> None:
    assert waiting_probability(1, 0.5) == pytest.approx(0.5)
    assert waiting_probability(2, 1.0) == pytest.approx(1 / 3)
    assert waiting_probability(10, 8.0) == pytest.approx(0.40918, abs=1e-5)
    assert waiting_probability(3, 3.0) == 1.0


def test_mean_wait_is_pollaczek_khinchine_for_one_server() -> None:
    # M/G/1: λ E[S²] / (2 (1 - λ E[S])).
    service, variation, arrivals = 2.0, 0.5, 0.3
    expected = arrivals * service**2 * (1 + variation) / (2 * (1 - arrivals * service))
    assert mean_wait_seconds(1, arrivals, service, service_variation=variation) == pytest.approx(expected)
    assert mean_wait_seconds(1, 0.5, 2.0, service_variation=1) == math.inf


@given(st.integers(1, 50), st.floats(0.01, 0.95), st.floats(0, 3))
def test_wait_grows_with_load(servers: int, load: float, variation: float) -> None:
    wait = mean_wait_seconds(servers, load * servers, 1.0, service_variation=variation)
    more = mean_wait_seconds(servers, load * servers * 1.02, 1.0, service_variation=variation)
    assert 0 <= wait <= more


def test_the_capacity_model_needs_no_library() -> None:
    code = (
        "import sys; import prfaas.capacity.paper, prfaas.capacity.queueing; "
        "print(sorted({'numpy', 'scipy', 'pydantic', 'click', 'asyncio'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert answer.stdout.strip() == "[]"
