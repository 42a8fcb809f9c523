"""The images, built for real and started as pods start them: another user than root, read-only."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prfaas_demo.certificates import ca
from prfaas_setup.images import PARTS, BuiltImage, ensure_images
from prfaas_setup.images.archive import read_config, unpack
from prfaas_setup.images.smoke import run_image
from prfaas_setup.progress import SetupError
from tests.chart.rendering import render

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="runc starts containers as root here"),
]
MEBIBYTE = 1 << 20
# About a tenth above what they are.
LARGEST_ARCHIVE_BYTES = {
    # The planner's solver is two thirds of it.
    "operator": 104 * MEBIBYTE,
    "gateway": 56 * MEBIBYTE,
    "sidecar": 38 * MEBIBYTE,
    "connector": 24 * MEBIBYTE,
}
IDENTITY = "spiffe://example.org/region/eu/ns/llm/pool/DecodePool/chat"


@pytest.fixture(scope="module", params=list(PARTS))
def image(request: pytest.FixtureRequest) -> BuiltImage:
    return _built(request.param)


def _built(name: str) -> BuiltImage:
    return ensure_images([name])[name]


@pytest.fixture(scope="module")
def root(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(f"{image.name}-root")
    unpack(image.archive, folder)
    yield folder
    shutil.rmtree(folder)


def test_an_image_says_what_it_is_and_runs_as_nobody_in_particular(image: BuiltImage) -> None:
    config = read_config(image.archive)
    assert config.user == "65532:65532"
    assert config.labels["org.opencontainers.image.title"] == f"prfaas-{image.name}"
    assert config.labels["org.opencontainers.image.version"]
    assert image.digest.startswith("sha256:")


def test_an_image_is_small(image: BuiltImage) -> None:
    assert image.archive_bytes < LARGEST_ARCHIVE_BYTES[image.name]


def test_an_image_holds_no_shell_no_installer_and_no_program_of_root(root: Path) -> None:
    programs = {path.name for folder in ("bin", "sbin") for path in (root / "usr" / folder).glob("*")}
    assert not programs & {"sh", "bash", "dash", "apt", "dpkg", "pip", "pip3", "tar", "curl", "wget"}
    assert not list(root.rglob("pip-*.dist-info"))
    privileged = [
        path
        for path in root.rglob("*")
        if not path.is_symlink() and path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]
    assert not privileged


def test_an_image_names_no_package_index(root: Path) -> None:
    assert not (root / "etc" / "apt").exists()
    assert not list(root.rglob("pip.conf"))
    for path in root.rglob("direct_url.json"):
        assert json.loads(path.read_text())["url"].startswith("file:///build/"), path


def test_an_image_carries_only_its_own_part(image: BuiltImage, root: Path) -> None:
    folder = root / ("connector" if image.name == "connector" else "opt/prfaas")
    found = {path.name for path in folder.glob("prfaas*") if "dist-info" not in path.name}
    assert found == set(PARTS[image.name].packages)


def test_the_connector_reaches_the_folder_that_the_engine_reads() -> None:
    # The image has no shell to look with; the program says what it did.
    assert "installed in /tmp/prfaas_connector" in run_image(_built("connector").archive, ["/tmp"])  # noqa: S108
    with pytest.raises(SetupError, match="cannot install into /etc"):
        run_image(_built("connector").archive, ["/etc"])


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """A Secret's files as a pod sees them: of another owner, readable."""
    leaf = ca("test").leaf(IDENTITY, [])
    folder = tmp_path / "tls"
    folder.mkdir()
    for name, pem in (("tls.crt", leaf.certificate_pem), ("tls.key", leaf.key_pem), ("ca.crt", leaf.ca_pem)):
        (folder / name).write_bytes(pem)
        (folder / name).chmod(0o644)
    return folder


def test_the_sidecar_accepts_its_configuration_and_certificates(tls: Path, tmp_path: Path) -> None:
    settings = {
        "engine": {"socket": "/run/prfaas/engine.sock", "url": "http://127.0.0.1:8000"},
        "arena_bytes": "16MiB",
        "tls": {"certificate": "/tls/tls.crt", "key": "/tls/tls.key", "ca": "/tls/ca.crt"},
    }
    config = _folder(tmp_path / "config", "sidecar.yaml", settings)
    said = run_image(
        _built("sidecar").archive,
        ["--config", "/config/sidecar.yaml", "--check"],
        mounts=[(tls, "/tls"), (config, "/config")],
    )
    assert "ok" in said


def test_the_gateway_accepts_the_charts_configuration(tls: Path, tmp_path: Path) -> None:
    written = render().one("ConfigMap", "prfaas-gateway")["data"]["gateway.yaml"]
    config = _folder(tmp_path / "config", "gateway.yaml", yaml.safe_load(written))
    state = tmp_path / "state"
    state.mkdir()
    said = run_image(
        _built("gateway").archive,
        ["--config", "/etc/prfaas/config/gateway.yaml", "--check"],
        mounts=[(config, "/etc/prfaas/config"), (tls, "/etc/prfaas/tls"), (state, "/var/lib/prfaas")],
    )
    assert "OK" in said


def test_the_operator_accepts_the_charts_configuration(tmp_path: Path) -> None:
    written = render().one("ConfigMap", "prfaas-operator")["data"]["operator.yaml"]
    config = _folder(tmp_path / "config", "operator.yaml", yaml.safe_load(written))
    arguments = ["--config", "/etc/prfaas/operator.yaml", "--check"]
    assert "good" in run_image(_built("operator").archive, arguments, mounts=[(config, "/etc/prfaas")])


def test_a_program_that_fails_in_its_image_is_told_with_its_words() -> None:
    with pytest.raises(SetupError, match=r"nowhere\.yaml"):
        run_image(_built("sidecar").archive, ["--config", "/nowhere.yaml", "--check"])


def _folder(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / name).write_text(yaml.safe_dump(settings))
    return folder
