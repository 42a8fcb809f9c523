from __future__ import annotations

import pytest
from pydantic import ValidationError

from prfaas_wan.errors import WanError
from prfaas_wan.settings import LinkChange, LinkSettings, WanConfig, changed, tcp_buffer_bytes, wan_config


def test_symmetric_gives_each_way_half_of_the_rtt() -> None:
    config = WanConfig.symmetric(rate_bits_per_second=1e9, rtt_seconds=0.05, loss_fraction=0.01)
    assert config.a_to_b == config.b_to_a
    assert config.link("b-to-a").delay_seconds == 0.025
    assert config.link("a-to-b").loss_fraction == 0.01


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rate_bits_per_second": 0}, "rate_bits_per_second"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"loss_fraction": 1.5}, "loss_fraction"),
        ({"jitter_seconds": 0.2}, "jitter is more than"),
        ({"queue_seconds": 1, "queue_bytes": 1}, "not both"),
        ({"speed": 1}, "speed"),
    ],
)
def test_a_bad_change_is_refused_with_field_and_reason(change: LinkChange, word: str) -> None:
    with pytest.raises(WanError, match=word) as caught:
        changed(LinkSettings(delay_seconds=0.1), change)
    assert caught.value.code == "InvalidSetting"


def test_a_queue_given_in_one_unit_replaces_the_other() -> None:
    by_time = LinkSettings(rate_bits_per_second=8e6, queue_seconds=0.5)
    assert by_time.queue_limit_bytes == 500_000
    in_bytes = changed(by_time, {"queue_bytes": 1000})
    assert in_bytes.queue_limit_bytes == 1000
    assert changed(in_bytes, {"queue_seconds": 1.0}).queue_limit_bytes == 1_000_000


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a/b", "x" * 33])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(WanError, match="name"):
        wan_config({"name": name})


def test_settings_do_not_change_in_place() -> None:
    with pytest.raises(ValidationError):
        LinkSettings().cut = True


@pytest.mark.parametrize(
    ("rate_bits_per_second", "rtt_seconds", "at_least"),
    [(1e9, 0.05, 2 * 1e9 / 8 * 0.1), (1e10, 0.1, 2 * 1e10 / 8 * 0.1), (1e6, 0.01, 32 * 1024**2)],
)
def test_tcp_buffers_hold_twice_the_link_and_its_queue(
    rate_bits_per_second: float, rtt_seconds: float, at_least: float
) -> None:
    config = WanConfig.symmetric(rate_bits_per_second=rate_bits_per_second, rtt_seconds=rtt_seconds)
    assert tcp_buffer_bytes(config.a_to_b, config.b_to_a) >= int(at_least)
