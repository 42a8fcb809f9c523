"""System packages: what is missing, and how it is installed."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_setup.progress import SetupError, run, say

APT_SECONDS = 600.0


@dataclass(frozen=True)
class Need:
    """Something that a Debian or Ubuntu package provides."""

    what: str
    package: str
    present: Callable[[], bool]


def _command(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _venv_module() -> bool:
    return importlib.util.find_spec("ensurepip") is not None and importlib.util.find_spec("venv") is not None


def _library(name: str) -> Callable[[], bool]:
    def present() -> bool:
        try:
            ctypes.CDLL(name)
        except OSError:
            return False
        return True

    return present


VENV_MODULE = Need("Python's venv module", "python3-venv", _venv_module)
CERTIFICATE_FILE = Path("/etc/ssl/certs/ca-certificates.crt")
CERTIFICATES = Need("root certificates", "ca-certificates", CERTIFICATE_FILE.is_file)
# vLLM's compiled parts link to them and its wheel does not bring them.
ENGINE_NEEDS = (
    Need("the NUMA library", "libnuma1", _library("libnuma.so.1")),
    Need("the OpenMP library", "libgomp1", _library("libgomp.so.1")),
)
NETWORK_NEEDS = (
    Need("the ip command", "iproute2", _command("ip")),
    Need("the unshare and nsenter commands", "util-linux", _command("nsenter")),
)
IMAGE_NEEDS = (
    Need("the buildah command", "buildah", _command("buildah")),
    Need("the mmdebstrap command", "mmdebstrap", _command("mmdebstrap")),
    Need("the runc command", "runc", _command("runc")),
)
CLUSTER_NEEDS = (
    *NETWORK_NEEDS,
    Need("the mount command", "mount", _command("mount")),
    Need("the containerd command", "containerd", _command("containerd")),
    Need("the ctr command", "containerd", _command("ctr")),
    Need("the runc command", "runc", _command("runc")),
    Need("the nft command", "nftables", _command("nft")),
    Need("the conntrack command", "conntrack", _command("conntrack")),
    Need("the sysctl command", "procps", _command("sysctl")),
)
PROXY_NEEDS = (Need("the haproxy command", "haproxy", _command("haproxy")),)
BENCH_NEEDS = (Need("the iperf3 command", "iperf3", _command("iperf3")),)


def ensure(needs: Sequence[Need]) -> None:
    """Install what is missing of `needs`, where that is possible.

    Raises:
        SetupError: something is missing and may not or cannot be installed; the text holds the command.
    """
    missing = [need for need in needs if not need.present()]
    if not missing:
        return
    packages = sorted({need.package for need in missing})
    command = "apt-get update && apt-get install --no-install-recommends -y " + " ".join(packages)
    what = ", ".join(need.what for need in missing)
    refusal = _refusal()
    if refusal is not None:
        raise SetupError(f"missing: {what}. {refusal} Run this as root, then try again: {command}")
    say(f"missing: {what}. Installing system packages (NO_INSTALL=1 refuses this): {command}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], timeout_seconds=APT_SECONDS, env=env)
    run(
        ["apt-get", "install", "-qq", "--no-install-recommends", "-y", *packages],
        timeout_seconds=APT_SECONDS,
        env=env,
    )
    still = [need.what for need in missing if not need.present()]
    if still:
        raise SetupError(f"still missing after the installation: {', '.join(still)}")


def ensure_if_possible(needs: Sequence[Need], without: str) -> None:
    """Install what is missing of `needs`; where that cannot be done, say what will be missed and go on."""
    try:
        ensure(needs)
    except SetupError as error:
        say(f"{error}. Going on without: {without}")


def ensure_venv_module() -> None:
    """Python's own venv module, which Debian packs separately."""
    ensure([VENV_MODULE])


def _refusal() -> str | None:
    if os.environ.get("NO_INSTALL", "") not in ("", "0"):
        return "NO_INSTALL is set, so nothing is installed."
    if os.geteuid() != 0:
        return "Only root can install it."
    if not _debian():
        return "This is neither Debian nor Ubuntu: the packages may have other names here."
    return None


def _debian() -> bool:
    return Path("/etc/debian_version").is_file() and shutil.which("apt-get") is not None
