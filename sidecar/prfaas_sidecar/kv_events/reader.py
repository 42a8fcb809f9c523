"""One engine's numbered batches, put in order: which are new, what is missing, and when all is lost."""

from __future__ import annotations

from prfaas_sidecar.kv_events.events import UnreadableError, read_batch
from prfaas_sidecar.kv_events.ledger import Ledger

SEQUENCE_BYTES = 8
END_OF_REPLAY = (-1).to_bytes(SEQUENCE_BYTES, "big", signed=True)


class Reader:
    """Brings the batches of one run of the engine to the ledger, each once and in order.

    Number 0 is the first thing that happened to an empty cache: who has all since then knows all.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._begun = False
        self.expected = 0
        self.missed = 0
        """How often something was gone for good."""
        ledger.lose()

    def caught_up(self) -> None:
        """The engine has nothing that has not come."""
        if not self._begun:
            self._begin()

    def first_missing(self, sequence: int) -> bool:
        """Whether batches before this one have not come."""
        return sequence > self.expected

    def take(self, sequence: int, payload: bytes) -> None:
        """A batch; those before it that have not come are given up, and with them all that was known.

        Raises:
            UnreadableError: this engine's events are of no use.
        """
        if sequence < self.expected:
            return
        if sequence > self.expected:
            self.give_up()
        elif not self._begun:
            self._begin()
        self.expected = sequence + 1
        try:
            self._ledger.apply(read_batch(payload))
        except UnreadableError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Something is gone that nobody repeats."""
        self.missed += 1
        self._begun = True
        self._ledger.lose()

    def _begin(self) -> None:
        self._begun = True
        self._ledger.begin()


def sequence_of(frame: bytes) -> int:
    """Number of a batch.

    Raises:
        UnreadableError: it is none.
    """
    if len(frame) != SEQUENCE_BYTES:
        raise UnreadableError("a KV event batch without a sequence number")
    return int.from_bytes(frame, "big")
