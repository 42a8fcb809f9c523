"""The files in examples/ are ones that the parts accept, and they fit together."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prfaas_demo.certificates import ca
from tests.gateway.tokenizers_for_tests import write_model

EXAMPLES = Path(__file__).parents[2] / "examples"
DOMAIN = "spiffe://example.org/region"
IDENTITIES = {
    "gateway": f"{DOMAIN}/eu/ns/serving/gateway/main",
    "prefill": f"{DOMAIN}/us/ns/serving/pool/PrefillPool/long",
    "decode": f"{DOMAIN}/eu/ns/serving/pool/DecodePool/chat",
}
CHECK_SECONDS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples, with what they name beside them. An arena of 16 GiB would not fit everywhere."""
    for example in EXAMPLES.glob("*.yaml"):
        shutil.copy(example, tmp_path)
    authority = ca()
    for name, identity in IDENTITIES.items():
        authority.leaf(identity).write(tmp_path / "tls", name)
    (tmp_path / "tls" / "bundle.crt").write_bytes(authority.pem)
    write_model(tmp_path / "models" / "chat")
    return tmp_path


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


def check(module: str, config: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, "--config", config, "--check"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
    )


def test_the_gateway(folder: Path) -> None:
    result = check("prfaas_gateway", "gateway.yaml", folder)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["sidecar-prefill.yaml", "sidecar-decode.yaml"])
def test_the_sidecars(folder: Path, name: str) -> None:
    content = (folder / name).read_text()
    assert "arena_bytes: 16GiB" in content
    (folder / name).write_text(content.replace("16GiB", "16MiB"))
    result = check("prfaas_sidecar", name, folder)
    assert result.returncode == 0, result.stderr


def test_identities_and_addresses_fit_together() -> None:
    gateway, prefill, decode = map(read, ("gateway.yaml", "sidecar-prefill.yaml", "sidecar-decode.yaml"))
    assert gateway["identity"] == IDENTITIES["gateway"]
    assert [engine["identity"] for engine in gateway["decode_engines"]] == [IDENTITIES["decode"]]
    assert {engine["identity"] for engine in gateway["prefill_engines"]} == {IDENTITIES["prefill"]}
    (rule,) = decode["peers"]["dial"]
    assert rule["identity"] == IDENTITIES["prefill"]
    assert rule["addresses"] == ["10.80.1.0/24:7400"]
    assert all(engine["kv_address"].startswith("10.80.1.") for engine in gateway["prefill_engines"])
    assert prefill["engine"]["socket"] == decode["engine"]["socket"]
