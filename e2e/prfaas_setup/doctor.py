"""What is there and what is missing, for a person to read."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

from prfaas_setup import engine, environments, locations, models, system


def report() -> Iterator[str]:
    """Lines about this machine and the caches. Looks only; installs nothing."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield f"machine     {len(os.sched_getaffinity(0))} usable CPUs, {memory_bytes / 2**30:.0f} GiB of memory"
    yield f"Python      {sys.version.split()[0]} ({sys.executable})"
    yield f"root        {'yes' if os.geteuid() == 0 else 'no (network namespaces need it)'}"
    groups = {
        "engine": system.ENGINE_NEEDS,
        "network": system.NETWORK_NEEDS,
        "clusters": system.CLUSTER_NEEDS,
        "proxy": system.PROXY_NEEDS,
        "bench": system.BENCH_NEEDS,
        "downloads": (system.CERTIFICATES,),
    }
    for group, needs in groups.items():
        for need in needs:
            found = "found" if need.present() else f"MISSING: apt-get install {need.package}"
            yield f"system      {need.what} (for {group}): {found}"
    yield f"tools       {locations.venv()}: {_state(environments.venv_is_complete(), 'make venv')}"
    yield f"engine      {engine.engine_folder()}: {_state(engine.engine_is_built(), 'make engine')}"
    for name in models.MODELS:
        state = _state(models.model_is_made(name), "made on demand")
        yield f"model       {models.model_folder(name)}: {state}"
    for folder in (*engine.leftover_folders(), *models.leftover_folders()):
        yield f"leftover    {folder}: of another version; make clean-cache removes it"
    cache = locations.cache_folder()
    nearest = next(path for path in (cache, *cache.parents) if path.is_dir())
    yield f"disk        {shutil.disk_usage(nearest).free / 2**30:.0f} GiB free at {nearest}"


def _state(there: bool, how: str) -> str:
    return "ready" if there else f"not there yet ({how})"
