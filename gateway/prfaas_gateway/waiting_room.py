"""Where requests wait for a decode engine with room, in a fair order, bounded in number and time.

An engine serves in the order in which it is asked. Whoever asks first with a thousand long prompts would be
served first; so an engine is given a window of work, and what is beyond it waits here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from prfaas.scheduling import Claim, FairQueue


class RoomFullError(Exception):
    """There is no place for another request, or none for another one of this tenant."""


class _Waiter:
    """A request that waits. `ready` says whether some engine would take it now."""

    __slots__ = ("ready", "turn")

    def __init__(self, ready: Callable[[], bool], turn: asyncio.Future[None]) -> None:
        self.ready = ready
        self.turn = turn


class WaitingRoom:
    """One queue per model. `wake` is called whenever an engine may have room again."""

    def __init__(self, most_waiting: int, weights: Mapping[str, float], clock: Callable[[], float]) -> None:
        self._most_waiting = most_waiting
        self._weights = dict(weights)
        self._clock = clock
        self._queues: dict[str, FairQueue[_Waiter]] = {}
        self._running: dict[str, dict[str, float]] = {}
        self._called: dict[str, _Waiter] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def waiting(self, model: str) -> int:
        """How many requests for a model wait."""
        queue = self._queues.get(model)
        return len(queue) if queue is not None else 0

    def busy(self, model: str) -> bool:
        """Whether others were here first, so that a new request has to wait behind them."""
        return model in self._called or bool(self.waiting(model))

    def ahead_cost(self, model: str, claim: Claim) -> float:
        """Tokens that would be served before a request that comes now."""
        queue = self._queues.get(model)
        return queue.ahead_cost(claim) if queue is not None else 0.0

    def shares(self, model: str, claim: Claim) -> tuple[float, float]:
        """The tenant's share of all that waits and runs, this request included, and its fair one."""
        running = self._running.get(model, {})
        queue = self._queues.get(model)
        tenants = {claim.tenant, *running, *(queue.tenants() if queue is not None else ())}
        costs = {
            tenant: running.get(tenant, 0.0) + (queue.waiting_cost(tenant) if queue is not None else 0.0)
            for tenant in tenants
        }
        costs[claim.tenant] += claim.cost
        weights = {tenant: self._weights.get(tenant, 1.0) for tenant in tenants}
        return (
            costs[claim.tenant] / max(1.0, sum(costs.values())),
            weights[claim.tenant] / sum(weights.values()),
        )

    async def wait(self, model: str, claim: Claim, seconds: float, ready: Callable[[], bool]) -> bool:
        """Wait for a turn; False when it did not come in time.

        Raises:
            RoomFullError: there is no place to wait.
        """
        queue = self._queues.setdefault(model, FairQueue(self._most_waiting, weights=self._weights))
        waiter = _Waiter(ready, asyncio.get_running_loop().create_future())
        if not queue.push(waiter, claim, self._clock()):
            raise RoomFullError
        self.wake(model)
        try:
            async with asyncio.timeout(seconds):
                await waiter.turn
        except TimeoutError:
            return False
        finally:
            queue.remove(waiter)
            if self._called.get(model) is waiter:
                # Its turn is used up in this very step, so the next one looks at what is left.
                del self._called[model]
                asyncio.get_running_loop().call_soon(self.wake, model)
        return True

    def wake(self, model: str) -> None:
        """Call whoever is next, if an engine would take it: one at a time, so that each sees what is left."""
        queue = self._queues.get(model)
        if queue is None or model in self._called:
            return
        now = self._clock()
        waiter = queue.peek(now)
        if waiter is None or waiter.turn.done() or not waiter.ready():
            return
        queue.pop(now)
        self._called[model] = waiter
        waiter.turn.set_result(None)

    def wake_all(self) -> None:
        """The same for all models: engines may have come, or become well."""
        for model in self._queues:
            self.wake(model)

    def started(self, model: str, tenant: str, cost: float) -> Callable[[], None]:
        """A request of a tenant begins; the result is to be called when its prefill has ended."""
        running = self._running.setdefault(model, {})
        running[tenant] = running.get(tenant, 0.0) + cost

        def ended() -> None:
            left = running.get(tenant, 0.0) - cost
            if left > 0.5:
                running[tenant] = left
            else:
                running.pop(tenant, None)

        return ended
