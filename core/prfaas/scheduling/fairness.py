"""Who is served next: fair between tenants, by priority and deadline inside one, and bounded.

Start-time fair queueing. Each tenant has a virtual time that moves on by cost over weight whenever something
of it is served; the tenant whose next item starts earliest in virtual time is served. Over any time in which
two tenants have work waiting, what they are served differs from the proportion of their weights by at most
one item of each, whatever the one of them sends. A tenant that was idle does not save up.

Classes of priority come before fairness: a higher class is served first, as long as no lower one has waited
for longer than `starve_seconds`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prfaas.capacity.errors import require_positive

ItemT = TypeVar("ItemT")
_MOST_GONE = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """What is known of an item when it is queued.

    Attributes:
        cost: of serving it: uncached tokens.
        priority: a higher one is served before a lower one.
        deadline_at: of two of one tenant and priority the earlier one goes first.
    """

    tenant: str
    cost: float
    priority: int = 0
    deadline_at: float = float("inf")


@dataclass(slots=True)
class _Entry(Generic[ItemT]):
    claim: Claim
    item: ItemT
    queued_at: float
    gone: bool = False


@dataclass(slots=True)
class _Tenant(Generic[ItemT]):
    """Items of one tenant and priority; `start` is the virtual time at which the next one begins."""

    start: float
    heap: list[tuple[float, int, _Entry[ItemT]]] = field(default_factory=list)


class FairQueue(Generic[ItemT]):
    """Items that wait. The caller passes the time.

    Args:
        most_items: of all tenants; more are refused by `push`.
        most_share: of `most_items` that one tenant may fill while others wait too.
        weights: of tenants; those that are not named have 1.
        starve_seconds: an item that has waited for longer goes before higher priorities.
    """

    def __init__(
        self,
        most_items: int,
        *,
        most_share: float = 0.5,
        weights: Mapping[str, float] | None = None,
        starve_seconds: float = 30.0,
    ) -> None:
        require_positive("most_items", most_items)
        for tenant, weight in (weights or {}).items():
            require_positive(f"weights[{tenant}]", weight)
        self._most_items = most_items
        self._most_of_one = max(1, int(most_items * most_share))
        self._weights = dict(weights or {})
        self._starve_seconds = starve_seconds
        self._classes: dict[int, dict[str, _Tenant[ItemT]]] = {}
        self._virtual: dict[int, float] = {}
        self._entries: dict[ItemT, _Entry[ItemT]] = {}
        self._waiting: dict[str, int] = {}
        self._costs: dict[tuple[int, str], float] = {}
        self._gone = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: ItemT) -> bool:
        return item in self._entries

    def push(self, item: ItemT, claim: Claim, now: float) -> bool:
        """Queue an item; False when there is no room for it: for nobody, or for more of this tenant."""
        others = len(self._entries) - self._waiting.get(claim.tenant, 0)
        if len(self._entries) >= self._most_items:
            return False
        if others and self._waiting.get(claim.tenant, 0) >= self._most_of_one:
            return False
        entry = _Entry(claim, item, now)
        tenants = self._classes.setdefault(claim.priority, {})
        tenant = tenants.get(claim.tenant)
        if tenant is None:
            tenant = tenants[claim.tenant] = _Tenant(self._virtual.get(claim.priority, 0.0))
        self._number += 1
        heapq.heappush(tenant.heap, (claim.deadline_at, self._number, entry))
        self._entries[item] = entry
        self._waiting[claim.tenant] = self._waiting.get(claim.tenant, 0) + 1
        place = (claim.priority, claim.tenant)
        self._costs[place] = self._costs.get(place, 0.0) + claim.cost
        return True

    def peek(self, now: float) -> ItemT | None:
        """Who is next; None when nobody waits."""
        found = self._next(now)
        return found[2].item if found is not None else None

    def pop(self, now: float) -> ItemT | None:
        """Serve who is next."""
        found = self._next(now)
        if found is None:
            return None
        priority, tenant, entry = found
        heapq.heappop(tenant.heap)
        weight = self._weights.get(entry.claim.tenant, 1.0)
        self._virtual[priority] = max(self._virtual.get(priority, 0.0), tenant.start)
        tenant.start += max(entry.claim.cost, 1.0) / weight
        self._forget(entry)
        self._tidy(priority)
        return entry.item

    def remove(self, item: ItemT) -> bool:
        """Take an item out, whoever was next; False when it does not wait."""
        entry = self._entries.get(item)
        if entry is None:
            return False
        entry.gone = True
        self._gone += 1
        self._forget(entry)
        if self._gone > 2 * len(self._entries) + _MOST_GONE:
            self._compact()
        return True

    def waiting_cost(self, tenant: str | None = None) -> float:
        """Cost of everything that waits, of one tenant or of all."""
        return sum(cost for (_, name), cost in self._costs.items() if tenant is None or name == tenant)

    def tenants(self) -> tuple[str, ...]:
        """Those that wait for something."""
        return tuple(self._waiting)

    def ahead_cost(self, claim: Claim) -> float:
        """Cost that is served before an item that would be queued now, as far as can be said.

        Of its own tenant everything of its class and above; of others at most as much in proportion to their
        weights.
        """
        own = self._class_cost(claim.tenant, claim.priority) + claim.cost
        fair = own / self._weights.get(claim.tenant, 1.0)
        return (
            own
            - claim.cost
            + sum(
                min(self._class_cost(tenant, claim.priority), fair * self._weights.get(tenant, 1.0))
                for tenant in self._waiting
                if tenant != claim.tenant
            )
        )

    def fair_share(self, tenant: str) -> float:
        """What the tenant is entitled to, among those that wait and itself."""
        all_ = {*self._waiting, tenant}
        return self._weights.get(tenant, 1.0) / sum(self._weights.get(each, 1.0) for each in all_)

    def _class_cost(self, tenant: str, priority: int) -> float:
        return sum(self._costs.get((level, tenant), 0.0) for level in self._classes if level >= priority)

    def _next(self, now: float) -> tuple[int, _Tenant[ItemT], _Entry[ItemT]] | None:
        best: tuple[int, _Tenant[ItemT], _Entry[ItemT]] | None = None
        starving: tuple[int, _Tenant[ItemT], _Entry[ItemT]] | None = None
        for priority in sorted(self._classes, reverse=True):
            found = self._first_of(priority)
            if found is None:
                continue
            if best is None:
                best = found
            elif now - found[2].queued_at > self._starve_seconds and (
                starving is None or found[2].queued_at < starving[2].queued_at
            ):
                starving = found
        return starving or best

    def _first_of(self, priority: int) -> tuple[int, _Tenant[ItemT], _Entry[ItemT]] | None:
        best: tuple[float, str, _Tenant[ItemT]] | None = None
        for name, tenant in self._heads(priority):
            if best is None or (tenant.start, name) < best[:2]:
                best = (tenant.start, name, tenant)
        return (priority, best[2], best[2].heap[0][2]) if best is not None else None

    def _heads(self, priority: int) -> Iterator[tuple[str, _Tenant[ItemT]]]:
        """Tenants of a class that have something waiting, removed items dropped."""
        for name, tenant in self._classes[priority].items():
            while tenant.heap and tenant.heap[0][2].gone:
                heapq.heappop(tenant.heap)
                self._gone -= 1
            if tenant.heap:
                yield name, tenant

    def _forget(self, entry: _Entry[ItemT]) -> None:
        del self._entries[entry.item]
        claim = entry.claim
        self._waiting[claim.tenant] -= 1
        if not self._waiting[claim.tenant]:
            del self._waiting[claim.tenant]
            for level in self._classes:
                self._costs.pop((level, claim.tenant), None)
        else:
            self._costs[claim.priority, claim.tenant] -= claim.cost
        if not self._entries:
            # Nobody waits: virtual time may begin anew, and nobody is owed anything.
            self._classes.clear()
            self._virtual.clear()
            self._gone = 0

    def _tidy(self, priority: int) -> None:
        """Drop tenants without work whose virtual time has passed: they begin anew at the same place."""
        now, tenants = self._virtual.get(priority, 0.0), self._classes.get(priority, {})
        for name in [name for name, each in tenants.items() if not each.heap and each.start <= now]:
            del tenants[name]

    def _compact(self) -> None:
        """Drop removed items that nobody has come across."""
        for tenants in self._classes.values():
            for tenant in tenants.values():
                tenant.heap = [each for each in tenant.heap if not each[2].gone]
                heapq.heapify(tenant.heap)
        self._gone = 0
