"""The files that the demo writes are ones that the parts accept."""

from __future__ import annotations

import json
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas_demo import engines, layout, names
from prfaas_demo.observer import observer_tls
from tests.demo.demo_values import region

CHECK_SECONDS = 30


def check(module: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, "--config", str(config), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)


@pytest.fixture
def credentials(tmp_path: Path) -> layout.Credentials:
    return layout.write_credentials(tmp_path / "tls", region("east"), region("west"))


def test_sidecars_accept_their_configuration(tmp_path: Path, credentials: layout.Credentials) -> None:
    for sidecar in layout.write_sidecars(tmp_path, credentials, region("east"), region("west")):
        result = check("prfaas_sidecar", sidecar.config)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("remote", [True, False])
def test_the_gateway_accepts_its_configuration(
    tmp_path: Path, credentials: layout.Credentials, remote: bool, model_folder: Path
) -> None:
    config = layout.write_gateway(
        tmp_path, credentials.gateway, region("east"), region("west"), model_folder, remote=remote
    )
    result = check("prfaas_gateway", config)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_checks_do_refuse(tmp_path: Path, credentials: layout.Credentials) -> None:
    producer, _ = layout.write_sidecars(tmp_path, credentials, region("east"), region("west"))
    credentials.east_sidecar.certificate.unlink()
    assert check("prfaas_sidecar", producer.config).returncode != 0


def test_keys_are_for_their_owner_only_and_each_region_has_its_own_authority(
    credentials: layout.Credentials,
) -> None:
    files = credentials.east_sidecar
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert files.ca.read_bytes().count(b"BEGIN CERTIFICATE") == 2
    context = observer_tls(credentials.observer)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_the_engines_command_line(tmp_path: Path) -> None:
    options = engines.EngineOptions("decode", chunk_tokens=512, threads=1)
    words = engines.command(
        options, region("west"), tmp_path / "model", tmp_path / "west.sock", tmp_path / "bin" / "python"
    )
    assert words[:3] == [str(tmp_path / "bin" / "vllm"), "serve", str(tmp_path / "model")]
    assert words[words.index("--served-model-name") + 1] == names.MODEL
    assert '"kv_role": "kv_consumer"' in words[-1]
    # Its sidecar sees the same folder.
    events = json.loads(words[words.index("--kv-events-config") + 1])
    assert events["endpoint"].startswith(f"ipc://{tmp_path}/")
    assert events["replay_endpoint"].startswith(f"ipc://{tmp_path}/")
    assert f'"socket": "{tmp_path / "west.sock"}"' in words[-1]


def test_an_engines_scratch_files_stay_in_the_run_folder(tmp_path: Path) -> None:
    variables = engines.environment({"OMP_NUM_THREADS": "1"}, tmp_path / "scratch")
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["TMPDIR"] == variables["VLLM_RPC_BASE_PATH"] == str(tmp_path / "scratch")
    assert (tmp_path / "scratch").is_dir()


def test_the_size_of_a_tokens_kv(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 30, "num_key_value_heads": 3, "head_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert engines.kv_bytes_per_token(tmp_path) == 46_080
