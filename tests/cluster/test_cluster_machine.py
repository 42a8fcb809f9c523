"""What a cluster needs from the machine and changes there, on imitated folders."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from prfaas_cluster import assets, oci, pki
from prfaas_cluster.bare import groups, host
from prfaas_cluster.errors import ClusterError
from prfaas_setup import SetupError
from prfaas_setup.images.archive import read_config

GO_MOD = """module x

go 1.26.0

require k8s.io/kubernetes v1.37.2

require (
	github.com/a/b v0.1.0
	k8s.io/kubernetes-not v9.9.9 // indirect
)
"""


@pytest.mark.parametrize(
    ("module", "version"),
    [("k8s.io/kubernetes", "v1.37.2"), ("github.com/a/b", "v0.1.0"), ("k8s.io/kubernetes-not", "v9.9.9")],
)
def test_a_required_version_is_read_from_go_mod(module: str, version: str) -> None:
    assert assets.required_version(GO_MOD, module) == version


def test_a_module_that_is_not_required_is_said() -> None:
    with pytest.raises(SetupError, match=r"doesn't require k8s\.io/kube"):
        assets.required_version(GO_MOD, "k8s.io/kube")


def test_kubernetes_knows_its_version_and_others_carry_none() -> None:
    modules = {module.name: module for module in assets.MODULES}
    flags = assets.linker_flags(modules["kubernetes"])
    version = assets.kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    for wanted in (f"gitVersion={version}", f"gitMajor={major}", f"gitMinor={minor}", "gitTreeState=clean"):
        assert f"-X k8s.io/component-base/version.{wanted}" in flags
    assert assets.linker_flags(modules["etcd"]) == "-s -w"
    command = assets.build_command(modules["kubernetes"], "kubelet", Path("/t"))
    assert command == ["go", "build", "-ldflags", flags, "-o", "/t", "k8s.io/kubernetes/cmd/kubelet"]


def test_the_cache_name_changes_with_everything_that_decides_what_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = assets.Module("m", {"m": "."})
    monkeypatch.setattr(assets.Module, "folder", property(lambda _: tmp_path))
    (tmp_path / "go.mod").write_text(GO_MOD)
    (tmp_path / "go.sum").write_text("a")
    keys = [assets.module_key(module, "go1.26.0"), assets.module_key(module, "go1.26.1")]
    keys.append(assets.module_key(assets.Module("m", {"m": "."}, versioned=True), "go1.26.0"))
    keys.append(assets.module_key(assets.Module("m", {"m": "."}, files={"d": ("*",)}), "go1.26.0"))
    (tmp_path / "go.sum").write_text("b")
    keys.append(assets.module_key(module, "go1.26.0"))
    (tmp_path / "main.go").write_text("package main")
    keys.append(assets.module_key(module, "go1.26.0"))
    assert len(set(keys)) == len(keys)
    assert assets.module_key(module, "go1.26.0") == keys[-1]


def test_kubebuilder_assets_come_first_for_what_they_hold_by_convention(tmp_path: Path) -> None:
    program = tmp_path / "etcd"
    program.touch(mode=0o755)
    given = {"KUBEBUILDER_ASSETS": str(tmp_path)}
    assert assets.given_program("etcd", given) == program
    assert assets.given_program("kubelet", given) is None
    assert assets.given_program("etcd", {}) is None
    with pytest.raises(SetupError, match="where no program kubectl is: name a folder"):
        assets.given_program("kubectl", given)


def test_without_go_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(SetupError, match=r"no `go` on PATH\. Install Go 1\.26.*KUBEBUILDER_ASSETS"):
        assets.program("kubelet")
    assert not assets.program_is_there("kubelet")


def test_a_go_that_is_too_old_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho 'go: go.mod requires go >= 1.26.0 (running go 1.19)' >&2\nexit 1\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SetupError, match=r"requires go >= 1\.26\.0 \(running go 1\.19\)\. Install Go 1\.26"):
        assets.go_version()


def test_an_image_is_readable_under_its_name_and_the_same_each_time(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x" * 5000)
    files = {**oci.host_files(), "program": oci.File(0o755, source=program)}
    digests = {
        oci.write_image(tmp_path / name, "example.org/a/b:1", files, entrypoint=["/program"], user="65534")
        for name in ("one.tar", "two.tar")
    }
    assert {read_config(tmp_path / "one.tar").digest} == digests
    assert read_config(tmp_path / "one.tar").user == "65534"
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        blob = tar.extractfile("index.json")
        assert blob is not None
        annotations = json.load(blob)["manifests"][0]["annotations"]
    assert annotations["org.opencontainers.image.ref.name"] == "example.org/a/b:1"


def test_secrets_are_never_readable_by_others(tmp_path: Path) -> None:
    authority = pki.Authority.new("test")
    _, key = authority.client("bob").write(tmp_path, "bob")
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    pki.write_secret(key, b"new")
    assert key.stat().st_mode & 0o777 == 0o600
    assert pki.Authority.restore(authority.pair).pem == authority.pem


@pytest.fixture
def version_1(tmp_path: Path) -> tuple[Path, str]:
    """Trees of version 1 with one of version 2 beside them, and the lines of /proc/mounts for them."""
    for name in ("cpuset", "memory", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3")
    kinds = {"cpuset": "cgroup", "memory": "cgroup", "unified": "cgroup2"}
    lines = [f"{kind} {tmp_path / name} {kind} rw 0 0" for name, kind in kinds.items()]
    return tmp_path, "\n".join([*lines, "proc /proc proc rw 0 0"])


def test_groups_of_version_1_are_made_in_each_tree_and_removed_wherever_they_are(
    version_1: tuple[Path, str],
) -> None:
    root, mounts = version_1
    groups.make_group("prfaas-a-node-1", root, mounts)
    groups.make_group("prfaas-ab-node-1", root, mounts)
    (root / "unified" / "prfaas-a-node-1").mkdir()
    (root / "memory" / "prfaas-a-node-1" / "kubepods" / "pod-1").mkdir(parents=True)
    found = groups.groups_of("a", root, mounts)
    assert [path.parent.name for path in found] == ["cpuset", "memory", "unified"]
    assert len(groups.groups_of(None, root, mounts)) == 5
    groups.remove_groups(found)
    assert groups.groups_of("a", root, mounts) == []
    assert len(groups.groups_of("ab", root, mounts)) == 2


def test_a_group_with_processes_is_named_when_it_cannot_be_removed(version_1: tuple[Path, str]) -> None:
    root, mounts = version_1
    groups.make_group("prfaas-a-node-1", root, mounts)
    # A file that can't go away stands for a process here.
    (root / "memory" / "prfaas-a-node-1" / "busy").touch()
    with pytest.raises(ClusterError, match="memory/prfaas-a-node-1 still has processes"):
        groups.remove_groups(groups.groups_of("a", root, mounts), within_seconds=0.0)


def test_a_group_of_version_2_gets_the_controllers_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    groups.make_group("prfaas-a-node-1", tmp_path, "")
    group = tmp_path / "prfaas-a-node-1"
    # The imitated file holds what was written last; the kernel adds up.
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"
    assert (group / "cgroup.subtree_control").read_text() == "+pids"
    assert groups.groups_of("a", tmp_path, "") == [group]


def test_the_machine_is_put_back_as_it_was_before_the_first_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    proc, kept, made = tmp_path / "sys", tmp_path / "kept", tmp_path / "made"
    kept.mkdir()
    for name in host.SETTINGS:
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text("0\n")
    host.remember(proc, (kept, made))
    (proc / host.SETTINGS[0]).write_text("1\n")
    # A second cluster sees what the first one changed, and must not take it for the machine's own.
    host.remember(proc, (kept, made))
    assert made.is_dir()
    done = host.restore(proc)
    assert (proc / host.SETTINGS[0]).read_text() == "0"
    assert not made.exists()
    assert kept.is_dir()
    assert done == ["set vm.overcommit_memory back to 0", f"removed the empty {made}"]
    assert host.restore(proc) == []
