"""The engine's own environment: a stock vLLM for CPUs, kept in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from prfaas_setup import locations, system
from prfaas_setup.environments import INSTALL_SECONDS, MARKER, ensure_venv, installer_env, is_complete, uv
from prfaas_setup.locking import only_one
from prfaas_setup.progress import SetupError, run, say, step

NEEDED_DISK_BYTES = 7 << 30
CHECK_SECONDS = 300.0
# More threads than this help no model of the tests, and a step waits for its slowest thread.
MOST_THREADS = 4
_COMPILED = "compiled-to-be-served"
_SERVED_MODULES = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)


def engine_key() -> str:
    """Names what is installed: the lock, the recipe, and the Python it is for."""
    recipe = str(locations.RECIPE_VERSION).encode()
    return locations.content_key(
        [recipe, locations.python_tag(), locations.requirements("engine.txt").read_bytes()]
    )


def engine_folder() -> Path:
    """Where the environment lies, built or not."""
    return locations.cache_folder() / f"engine-{engine_key()}"


def engine_is_built() -> bool:
    """Whether the environment is there, complete, and its Python still exists."""
    folder = engine_folder()
    return is_complete(folder, engine_key()) and (folder / "bin" / "python").exists()


def ensure_engine() -> Path:
    """Build the environment if it is not there yet. Returns its Python.

    It is built where it will be used, since scripts in it hold its path, and counts only once its marker is
    written as the last step.

    Raises:
        SetupError: a system package is missing, the disk is full, or the installation failed.
    """
    system.ensure(system.ENGINE_NEEDS)
    folder = engine_folder()
    if not engine_is_built():
        ensure_venv()
        with only_one(folder.with_suffix(".lock"), folder.name, timeout_seconds=INSTALL_SECONDS):
            if not engine_is_built():
                _build(folder)
    return folder / "bin" / "python"


def engine_env(*, threads: int | None = None) -> dict[str, str]:
    """Variables, to be merged over os.environ, for vLLM to run offline and find this checkout's connector.

    Args:
        threads: computing threads of each engine process; by default one per usable CPU, at most four.
    """
    usable_cpus = len(os.sched_getaffinity(0))
    return {
        "PYTHONPATH": str(connector_path()),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(locations.cache_folder() / "vllm"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads or min(usable_cpus, MOST_THREADS)),
        # Engines share the CPUs: a thread that waits must not spin.
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def ensure_served_engine_compiled() -> None:
    """Byte code of what `vllm serve` imports. Pods see the environment read-only: without it each of their
    starts would compile some 1,500 modules anew.
    """
    python, mark = ensure_engine(), engine_folder() / _COMPILED
    if mark.exists():
        return
    with step("byte code of the engine's server"):
        run(
            [python, "-c", f"import {', '.join(_SERVED_MODULES)}"],
            timeout_seconds=CHECK_SECONDS,
            env={**os.environ, **engine_env()},
        )
    mark.touch()


def connector_path() -> Path:
    """A folder for PYTHONPATH that holds the connector and nothing else of the project."""
    root = locations.checkout()
    folder = root / ".run" / "engine-path"
    folder.mkdir(parents=True, exist_ok=True)
    link, target = folder / "prfaas_connector", root / "sidecar" / "prfaas_connector"
    if not (link.is_symlink() and link.readlink() == target):
        fresh = folder / f".link-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
    return folder


def leftover_folders() -> Sequence[Path]:
    """Engine environments in the cache that this checkout does not use."""
    return sorted(
        path
        for path in locations.cache_folder().glob("engine-*/")
        if path.is_dir() and path != engine_folder()
    )


def _build(folder: Path) -> None:
    if folder.exists():
        say(f"removing an unfinished {folder.name}")
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < NEEDED_DISK_BYTES:
        raise SetupError(
            f"{folder.parent} has {free_bytes >> 20} MiB free and the engine needs "
            f"{NEEDED_DISK_BYTES >> 20} MiB; free some, or set XDG_CACHE_HOME to a folder on a larger disk"
        )
    lock = locations.requirements("engine.txt")
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    env = installer_env(folder)
    with step(f"engine environment {folder} (vLLM for CPUs: some 3 GB to download once, 5.3 GB on disk)"):
        run(
            [uv(), "venv", "--quiet", "--python", Path(sys.executable).resolve(), folder],
            timeout_seconds=CHECK_SECONDS,
        )
        # The lock is complete, and it says on purpose less than the packages ask for.
        run(
            [uv(), "pip", "install", *quiet, "--no-deps", "--no-build", "--require-hashes", "-r", lock],
            timeout_seconds=INSTALL_SECONDS,
            env=env,
        )
        _name_distribution(folder)
    with step("first start of the engine's Python"):
        check = "import torch, vllm._C, importlib.metadata as m; assert m.version('vllm').endswith('+cpu')"
        run([folder / "bin" / "python", "-I", "-c", check], timeout_seconds=CHECK_SECONDS)
    (folder / MARKER).write_text(engine_key())
    if leftover_folders():
        say(f"{len(leftover_folders())} older engine environment(s) remain; make clean-cache removes them")


def _name_distribution(folder: Path) -> None:
    """Write metadata of a distribution `vllm`: without it vLLM takes itself for a build for CUDA."""
    (packages,) = folder.glob("lib/python*/site-packages")
    (real,) = packages.glob("vllm_cpu-*.dist-info")
    version = real.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    info = packages / f"vllm-{version}.dist-info"
    info.mkdir(exist_ok=True)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n",
        "INSTALLER": "prfaas-setup\n",
        "RECORD": "".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")),
    }
    for name, text in files.items():
        (info / name).write_text(text)
