"""The optional settings of operator.yaml: what the injection is told, and which values are refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from prfaas_operator.config import ConfigError, OperatorConfig, parse
from prfaas_operator.injection.settings import Settings

GOOD: dict[str, Any] = {
    "region": "eu",
    "trust_domain": "example.org",
    "images": {"sidecar": "s:1", "connector": "c:1"},
}


def config(**more: Any) -> OperatorConfig:
    return parse(yaml.safe_dump({**GOOD, **more}), "operator.yaml")


def test_without_optional_settings_the_injections_own_defaults_hold() -> None:
    settings = config().injection_settings()
    assert settings == Settings(
        region="eu",
        trust_domain="example.org",
        sidecar_image="s:1",
        connector_image="c:1",
        image_pull_policy="IfNotPresent",
    )
    # Any address, of both families.
    assert settings.prefill_addresses == ("0.0.0.0/0:7400", "[::/0]:7400")


def test_every_optional_setting_of_the_injection_can_be_set() -> None:
    more = {
        "image_pull_secrets": ["mirror", "registry.example.org"],
        "connector_as_image_volume": True,
        "prefill_addresses": ["10.0.0.0/8:7400", "[fd00:10::/48]:*", "10.1.2.3:7400"],
        "listen_address": "::",
        "gateways": ["spiffe://example.org/region/*/ns/edge/gateway/*"],
        "image_pull_policy": "Always",
    }
    federation = {"host_ports": [32000, 32010], "kv_proxy_address": "kv.eu.example.org:7411"}
    told = config(**more, federation=federation).injection_settings().model_dump(mode="json")
    more |= federation
    assert {name: told[name] for name in more} == more
    optional = {name for name, field in Settings.model_fields.items() if not field.is_required()}
    assert optional - set(more) == {"version", "log_level"}, "a setting that no file can set"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("prefill_addresses", ["10.0.0.0/8"], "prefill_addresses.0: '10.0.0.0/8' is not network:port"),
        ("prefill_addresses", ["10.0.0.1/8:7400"], "has host bits set"),
        ("prefill_addresses", ["10.0.0.0/8:7400", "fd00::/8:7400"], "prefill_addresses.1: "),
        ("prefill_addresses", ["[10.0.0.0/8]:7400"], "an IPv6 network, and only that, is in brackets"),
        ("prefill_addresses", ["10.0.0.0/8:70000"], "has no port; 7400 is the sidecars'"),
        ("prefill_addresses", [], "prefill_addresses: "),
        ("image_pull_secrets", ["Mirror_1"], "image_pull_secrets.0: "),
        ("gateways", ["anybody"], "gateways.0: "),
        ("listen_address", "localhost", "listen_address: "),
        ("connector_as_image_volume", "perhaps", "connector_as_image_volume: "),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_field(name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{name: value})
    assert words in str(caught.value)
