"""What a sidecar answers to `GET /v1/held-blocks`: the blocks that its engine holds, or what has changed.

A number of 4 bytes, a JSON head of that length, then the hashes of `prfaas.block_chain`, 8 bytes each, first
those that were stored, then those that were removed. All numbers are little-endian. docs/contracts.md has the
rules; keys of the head that a reader does not know are ignored.
"""

from __future__ import annotations

import json
import re
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prfaas.block_chain import packed, unpacked

MAX_HASHES = 1 << 19
"""Of one answer: 4 MiB."""
MAX_HEAD_BYTES = 4096
MAX_ANSWER_BYTES = 4 + MAX_HEAD_BYTES + 8 * MAX_HASHES
_LENGTH = struct.Struct("<I")
WAIT_SECONDS_MAX = 30.0
_NUMBER = re.compile(r"[0-9]{1,18}")
_EPOCH = re.compile(r"[0-9a-f]{16}")
_MOST_VERSION = 1 << 62


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far somebody has heard.

    Attributes:
        epoch: 16 hexadecimal digits; another one after everything known was given up.
        version: of the last change within it.
    """

    epoch: str
    version: int

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not _EPOCH.fullmatch(self.epoch) or not 0 <= self.version < _MOST_VERSION:
            raise ValueError("an epoch is 16 hexadecimal digits, a version a number from 0 on")


def question(cursor: Cursor | None, wait_seconds: float) -> dict[str, str]:
    """The query of a call."""
    asked = {"wait": f"{wait_seconds:.0f}"}
    return asked if cursor is None else asked | {"epoch": cursor.epoch, "version": str(cursor.version)}


def read_question(query: Mapping[str, str]) -> tuple[Cursor | None, float]:
    """Cursor and seconds to wait, within `WAIT_SECONDS_MAX`, of a call's query.

    Raises:
        ValueError: it makes no sense; the text names what.
    """
    numbers = {}
    for name in ("wait", "version"):
        text = query.get(name)
        if text is not None and not _NUMBER.fullmatch(text):
            raise ValueError(f"{name} is a number")
        numbers[name] = None if text is None else int(text)
    epoch, version = query.get("epoch"), numbers["version"]
    cursor = None if epoch is None or version is None else Cursor(epoch, version)
    return cursor, min(WAIT_SECONDS_MAX, float(numbers["wait"] or 0))


@dataclass(frozen=True, slots=True)
class HeldBlocks:
    """One answer.

    Attributes:
        cursor: where to go on from.
        whole: `stored` is all that is known to be held; else it came since the cursor that was asked with.
        complete: whether what is not told is not held. Else the engine may hold more.
        block_tokens: of each block; 0 while none is known.
        stored, removed: hashes, each at most once over both.
    """

    cursor: Cursor
    whole: bool
    complete: bool
    block_tokens: int
    stored: array[int]
    removed: array[int]

    def encode(self) -> bytes:
        """As it goes over the wire."""
        head = json.dumps(
            {
                "version": 1,
                "epoch": self.cursor.epoch,
                "to": self.cursor.version,
                "whole": self.whole,
                "complete": self.complete,
                "block_tokens": self.block_tokens,
                "stored": len(self.stored),
                "removed": len(self.removed),
            },
            separators=(",", ":"),
        ).encode()
        return b"".join((_LENGTH.pack(len(head)), head, packed(self.stored), packed(self.removed)))


def read_held_blocks(answer: bytes) -> HeldBlocks:
    """One answer from its bytes.

    Raises:
        ValueError: it is not what `HeldBlocks.encode` writes; the text names what.
    """
    if len(answer) < _LENGTH.size:
        raise ValueError("too short")
    (length,) = _LENGTH.unpack_from(answer)
    start = _LENGTH.size + length
    if length > MAX_HEAD_BYTES or len(answer) < start:
        raise ValueError("head")
    try:
        head = json.loads(answer[_LENGTH.size : start])
    except RecursionError as error:
        raise ValueError("head") from error
    if not isinstance(head, dict) or head.get("version") != 1:
        raise ValueError("not of version 1")
    stored, removed = _count(head, "stored"), _count(head, "removed")
    middle = start + 8 * stored
    if stored + removed > MAX_HASHES or len(answer) != middle + 8 * removed:
        raise ValueError("length")
    view = memoryview(answer)
    return HeldBlocks(
        Cursor(str(head.get("epoch")), _count(head, "to")),
        whole=head.get("whole") is True,
        complete=head.get("complete") is True,
        block_tokens=_count(head, "block_tokens"),
        stored=unpacked(view[start:middle]),
        removed=unpacked(view[middle:]),
    )


def _count(head: dict[str, Any], name: str) -> int:
    value = head.get(name)
    if type(value) is not int or not 0 <= value < _MOST_VERSION:
        raise ValueError(name)
    return value
