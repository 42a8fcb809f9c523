"""A train for tests: numbered segments of equal size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SEGMENT_BYTES = 1500


@dataclass(frozen=True)
class NumberedTrain:
    first: int
    segments: int
    segment_bytes: int = SEGMENT_BYTES

    def bytes_of(self, start: int, stop: int) -> int:
        return (stop - start) * self.segment_bytes

    def cut(self, start: int, stop: int) -> NumberedTrain:
        return NumberedTrain(self.first + start, stop - start, self.segment_bytes)


def numbers(trains: Iterable[NumberedTrain]) -> list[int]:
    return [number for train in trains for number in range(train.first, train.first + train.segments)]
