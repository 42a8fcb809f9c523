"""The configuration file: what is refused, with which field and reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from prfaas_demo.certificates import ca
from prfaas_gateway.command import main
from prfaas_gateway.config import ConfigError, load, split_address
from tests.gateway.tokenizers_for_tests import write_model
from tests.gateway.world import GATEWAY, decode_identity, prefill_identity

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    """A complete configuration with relative paths, its files beside it."""
    write_model(tmp_path / "model")
    ca().leaf(GATEWAY).write(tmp_path, "gateway")
    return {
        "listen": "127.0.0.1:0",
        "region": "here",
        "identity": GATEWAY,
        "tls": {"certificate": "gateway.crt", "key": "gateway.key", "trust_bundle": "gateway-ca.crt"},
        "models": [{"name": "chat", "tokenizer": "model", "max_model_tokens": 4096, "threshold_tokens": 100}],
        "decode_engines": [
            {
                "name": "d",
                "url": "http://127.0.0.1:8000",
                "control": "https://127.0.0.1:7401",
                "identity": decode_identity(),
            }
        ],
        "prefill_engines": [
            {
                "name": "p",
                "control": "https://127.0.0.1:7401",
                "kv_address": "127.0.0.1:7400",
                "identity": prefill_identity(),
            }
        ],
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    """The file."""
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_good_file_is_loaded_with_paths_beside_it(good: dict[str, Any], tmp_path: Path) -> None:
    config = load(write(tmp_path, good))
    assert config.models[0].tokenizer == tmp_path / "model"
    assert config.tls is not None
    assert config.tls.key == tmp_path / "gateway.key"
    assert config.sidecar_identities == {decode_identity(), prefill_identity()}


REFUSALS: list[tuple[str, Change, str]] = [
    ("unknown-field", lambda c: c.update(thresold=5), "thresold: Extra inputs are not permitted"),
    ("unknown-inner-field", lambda c: c["models"][0].update(x=1), "models.0.x: Extra inputs"),
    ("missing", lambda c: c.pop("region"), "region: Field required"),
    ("no-model", lambda c: c.update(models=[]), "models: at least one is needed"),
    (
        "wrong-type",
        lambda c: c["models"][0].update(threshold_tokens="many"),
        "models.0.threshold_tokens: Input",
    ),
    ("negative", lambda c: c["models"][0].update(threshold_tokens=-1), "models.0.threshold_tokens: Input"),
    ("bad-address", lambda c: c.update(listen="8000"), "listen: must be host:port"),
    ("bad-port", lambda c: c.update(listen="x:99999"), "listen: must be host:port"),
    ("bare-ipv6", lambda c: c.update(listen="::1:80"), "listen: must be host:port"),
    (
        "bad-url",
        lambda c: c["decode_engines"][0].update(url="ftp://x"),
        "decode_engines.0.url: must be a URL",
    ),
    (
        "plain-control",
        lambda c: c["prefill_engines"][0].update(control="http://x:7401"),
        "prefill_engines.0.control: must be a URL with https",
    ),
    ("bad-identity", lambda c: c.update(identity="gateway"), "identity: must be a SPIFFE URI"),
    (
        "half-a-sidecar",
        lambda c: c["decode_engines"][0].pop("identity"),
        "decode_engines.0: control and identity go together",
    ),
    (
        "same-name",
        lambda c: c["prefill_engines"][0].update(name="d"),
        "(file): engine 'd' is named twice",
    ),
    (
        "unserved",
        lambda c: c["decode_engines"][0].update(models=["other"]),
        "serves 'other', which is not among the models",
    ),
    ("no-tls", lambda c: c.pop("tls"), "(file): tls is needed to speak to sidecars"),
    ("no-file", lambda c: c["tls"].update(key="nothing.key"), "tls.key: "),
    ("no-tokenizer", lambda c: c["models"][0].update(tokenizer="nothing"), "models.0.tokenizer: "),
    ("endless", lambda c: c.update(timeouts={"idle_seconds": 0}), "timeouts.idle_seconds: Input should be"),
]


@pytest.mark.parametrize(
    ("change", "problem"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_a_bad_file_is_refused_with_field_and_reason(
    good: dict[str, Any], tmp_path: Path, change: Change, problem: str
) -> None:
    change(good)
    file = write(tmp_path, good)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert problem in str(refused.value)
    result = CliRunner().invoke(main, ["--config", str(file), "--check"])
    assert result.exit_code == 1
    assert problem in result.output


@pytest.mark.parametrize("text", ["", "- a", "a: [", "just text"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "none.yaml" in result.output


@pytest.mark.parametrize("name", ["model/tokenizer.json", "gateway.key", "gateway-ca.crt"])
def test_a_file_that_is_not_what_it_should_be_is_refused(
    good: dict[str, Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("{}")
    result = CliRunner().invoke(main, ["--config", str(write(tmp_path, good)), "--check"])
    assert result.exit_code == 1
    assert "cannot be used" in result.output


def test_check_says_ok(good: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(write(tmp_path, good)), "--check"])
    assert result.exit_code == 0
    assert "OK, 1 model(s)" in result.output


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert "--config gateway.yaml --check" in result.output


@pytest.mark.parametrize(
    ("address", "expected"), [("h:1", ("h", 1)), ("[::1]:80", ("::1", 80)), (":80", ("", 80))]
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected
