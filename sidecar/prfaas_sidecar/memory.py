"""Whether the arena fits into the machine and the container, asked before it is made."""

from __future__ import annotations

from pathlib import Path

from prfaas_sidecar.config import Config, ConfigError

_HEADROOM_BYTES = 128 << 20
"""For the process itself, which needs about 80 MiB."""


def check_arena(arena_bytes: int, available_bytes: int | None, limit_bytes: int | None) -> None:
    """Compare with what is there; None where that is not known.

    Raises:
        ConfigError: the arena would be killed or swap the node to death later on.
    """
    need = arena_bytes + _HEADROOM_BYTES
    text = f"arena_bytes: {_mib(arena_bytes)} and {_mib(_HEADROOM_BYTES)} for the process do not fit into"
    if limit_bytes is not None and need > limit_bytes:
        raise ConfigError(
            f"{text} this container's memory limit ({_mib(limit_bytes)}); raise it or make the arena smaller"
        )
    if available_bytes is not None and need > available_bytes:
        raise ConfigError(
            f"{text} the memory that is available ({_mib(available_bytes)}); make the arena smaller"
        )


def arena_limit_bytes(config: Config) -> int | None:
    """The limit that has to hold the arena if that is this process's; None: no limit, or the engine's."""
    return limit_bytes() if config.arena_charged_to == "sidecar" else None


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """MemAvailable of the machine."""
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def limit_bytes(cgroup: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The tightest memory limit of the process's control group (version 2) and those above it."""
    try:
        entry = next(
            line for line in cgroup.read_text(encoding="utf-8").splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return None
    tightest: int | None = None
    here = root / entry.removeprefix("0::").lstrip("/")
    for folder in (here, *here.parents):
        if not folder.is_relative_to(root):
            break
        try:
            text = (folder / "memory.max").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text != "max":
            tightest = int(text) if tightest is None else min(tightest, int(text))
    return tightest


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
