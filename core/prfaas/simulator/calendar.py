"""SimPy's environment, which also says how many events there were."""

from __future__ import annotations

import simpy


class Calendar(simpy.Environment):
    """What happens when."""

    @property
    def events(self) -> int:
        """Events that were scheduled up to now."""
        # A number that is drawn here is missing in nothing: event numbers only have to ascend.
        return next(self._eid)
