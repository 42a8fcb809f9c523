"""Who may talk to this sidecar: from its configuration, or from a file that others keep up to date."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prfaas_sidecar.config import (
    Config,
    ConfigError,
    DialRule,
    IdentityPattern,
    RegionName,
    RegionSection,
    mapping,
    wrong_fields,
)
from prfaas_sidecar.identity import Identity, Pattern, authorised
from prfaas_sidecar.logs import fields

_log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20
_MAX_KNOWN_UNKNOWNS = 64


@dataclass(frozen=True, slots=True)
class Access:
    """What is in force. ``regions`` has the trust bundle (PEM) of each other region; None: no federation.
    ``digest`` is the SHA-256 of the file that said so, None without one; ``read_at`` its time, in seconds
    since the epoch; ``error`` why a newer file is not in force."""

    accept: tuple[Pattern, ...] = ()
    dial: tuple[DialRule, ...] = ()
    gateways: tuple[Pattern, ...] = ()
    regions: Mapping[str, str] | None = None
    source: str = "config"
    digest: str | None = None
    read_at: float | None = None
    error: str | None = None

    def may_pull(self, identity: Identity) -> bool:
        """Whether this pool may have KV from here."""
        return authorised(identity, self.accept)

    def may_be_dialled(self, identity: Identity, host: str, port: int) -> bool:
        """Whether KV may be fetched there."""
        return any(rule.allows(identity, host, port) for rule in self.dial)

    def may_control(self, identity: Identity) -> bool:
        """Whether this gateway is heard."""
        return authorised(identity, self.gateways)


class _DialEntry(DialRule):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _RegionEntry(RegionSection):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Content(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    accept: list[IdentityPattern] = []
    dial: list[_DialEntry] = []
    gateways: list[IdentityPattern] = []
    regions: dict[RegionName, _RegionEntry] | None = None


def of_config(config: Config) -> Access:
    """What the configuration says; nobody while a file is to say it."""
    if config.peers_file is not None:
        return Access(source="file")
    peers = config.peers
    return _access(peers.accept, peers.dial, config.gateways, peers.regions)


def of_text(text: str, source: str) -> tuple[Access, set[str]]:
    """What a file says, and the keys in it that are not known here.

    Raises:
        ConfigError: it cannot be used as a whole.
    """
    raw = mapping(text, source) if text.strip() else {}
    try:
        content = _Content.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{source} cannot be used:\n{wrong_fields(error)}") from None
    unknown = {str(key) for key in raw if key not in _Content.model_fields}
    for entry in raw.get("dial") or ():
        unknown |= {f"dial.{key}" for key in entry if key not in DialRule.model_fields}
    for region, entry in (raw.get("regions") or {}).items():
        unknown |= {f"regions.{region}.{key}" for key in entry if key not in RegionSection.model_fields}
    return _access(content.accept, content.dial, content.gateways, content.regions), unknown


def of_bytes(data: bytes, source: str) -> tuple[Access, set[str]]:
    """`of_text` for a file's content.

    Raises:
        ConfigError: it cannot be used as a whole.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{source} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return of_text(data.decode(), source)
    except UnicodeDecodeError:
        raise ConfigError(f"{source} is not UTF-8") from None


def _access(
    accept: Iterable[str],
    dial: Iterable[DialRule],
    gateways: Iterable[str],
    regions: Mapping[str, RegionSection] | None,
) -> Access:
    return Access(
        accept=tuple(Pattern(text) for text in accept),
        dial=tuple(dial),
        gateways=tuple(Pattern(text) for text in gateways),
        regions=None if regions is None else {name: entry.trust for name, entry in regions.items()},
    )


class PeersFile:
    """The file on disk. `refresh` blocks; it is called in a thread, by one caller at a time."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        self._stamp: tuple[int, int, int] | None = None
        self._known_unknowns: set[str] = set()
        self._ever_read = False

    def refresh(self, now: Access) -> Access:
        """What is in force from here on: ``now`` itself when nothing has changed. A file that is gone means
        nobody, one that cannot be used leaves what was in force."""
        try:
            status = self._path.stat()
            # A volume of the kubelet changes by a link to a new folder: another inode, perhaps the same time.
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return now
            data = self._read()
        except FileNotFoundError:
            return self._gone(now)
        except OSError as error:
            self._stamp = None
            return self._broken(now, f"{self._path}: {error.strerror or error}")
        self._stamp, self._ever_read = stamp, True
        try:
            found, unknown = of_bytes(data, str(self._path))
        except ConfigError as error:
            return self._broken(now, str(error))
        self._say_unknown(unknown)
        _log.info(
            "peers were read",
            extra=fields(
                accept=len(found.accept),
                dial=len(found.dial),
                gateways=len(found.gateways),
                regions=None if found.regions is None else sorted(found.regions),
            ),
        )
        return replace(found, source="file", digest=hashlib.sha256(data).hexdigest(), read_at=self._wall())

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)

    def _gone(self, now: Access) -> Access:
        error = f"{self._path}: there is no such file, so nobody may talk to this sidecar"
        if now.error == error:
            return now
        self._stamp = None
        log = _log.error if self._ever_read else _log.warning
        log("no peers", extra=fields(reason=error))
        return Access(source="file", error=error)

    def _broken(self, now: Access, error: str) -> Access:
        if now.error == error:
            return now
        _log.error(
            "changed peers cannot be used; the last good ones stay in force", extra=fields(reason=error)
        )
        return replace(now, error=error)

    def _say_unknown(self, unknown: set[str]) -> None:
        new = sorted(unknown - self._known_unknowns)[:_MAX_KNOWN_UNKNOWNS]
        if new and len(self._known_unknowns) < _MAX_KNOWN_UNKNOWNS:
            self._known_unknowns |= set(new)
            _log.warning(
                "keys of the peers file are unknown to this version and ignored", extra=fields(keys=new)
            )


def as_json(access: Access) -> dict[str, Any]:
    """For the status."""
    return {
        "source": access.source,
        "digest": access.digest,
        "read_at": access.read_at,
        "error": access.error,
    }
