"""The worker side: carries out the step plans on this rank's tensors. Knows tensors and lanes, not
engines."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from prfaas_connector.arena import Arena
from prfaas_connector.device.base import DeviceCopier, Ticket
from prfaas_connector.local_api.messages import Message, ProducerDone, Publish
from prfaas_connector.manifest import Kind, Layout
from prfaas_connector.steps import FailedLoad, GroupCopy, Load, Memory, Save, StepPlan

logger = logging.getLogger("prfaas.connector")

DRAIN_SECONDS = 30.0
"""Copies take milliseconds; this only bounds a device that has died."""


class Sidecar(Protocol):
    """The part of `SidecarClient` that a worker uses."""

    arena: Arena | None

    def send(self, message: Message) -> bool:
        """Hands a message over without blocking."""


class Worker:
    """One rank.

    Args:
        layout: the engine's KV cache groups.
        rank: this process's tensor-parallel rank.
        replicas: consecutive ranks that hold identical KV; only the first of them publishes, all of them
        load.
        copier: moves blocks between the cache and the arena.
        sidecar: where publications go.
    """

    def __init__(
        self, layout: Layout, rank: int, replicas: int, copier: DeviceCopier, sidecar: Sidecar
    ) -> None:
        self._layout = layout
        self._rank = rank
        self._shard = rank // replicas
        self._publishes = rank % replicas == 0
        self._copier = copier
        self._sidecar = sidecar
        self._publisher = _Publisher(sidecar)
        self._loader = _Loader(self)
        self._caches: list[list[Any]] = []
        self._layer_places: dict[str, tuple[int, int]] = {}
        self._plan = StepPlan()
        self._attached: dict[str, Arena | None] = {}
        # Held while a copy is submitted or, on the CPU, carried out; a load must not hold up a step.
        self._saving = threading.Lock()
        self._loading = threading.Lock()
        self._attaching = threading.Lock()

    def register(self, caches: Mapping[str, Any]) -> None:
        """Takes the engine's cache tensors, one per layer, first dimension blocks.

        Raises:
            ValueError: a tensor's block is not as large as the layout says.
        """
        self._caches = [[caches[name] for name, _ in group.layers] for group in self._layout.groups]
        for index, group in enumerate(self._layout.groups):
            for layer, (name, unit_bytes) in enumerate(group.layers):
                cache = caches[name]
                actual = cache[0].numel() * cache.element_size()
                if actual != unit_bytes:
                    raise ValueError(f"{name}: a block has {actual} bytes, the layout says {unit_bytes}")
                self._layer_places[name] = (index, layer)

    def begin_step(self, plan: StepPlan) -> None:
        """Before the forward pass."""
        self._plan = plan
        for save in plan.saves:
            for group, block_id in save.clears:
                for cache in self._caches[group]:
                    self._copier.clear(cache, (block_id,))
        for transfer_id in plan.dropped:
            self._publisher.submit(None, ProducerDone(transfer_id, self._rank, complete=False))

    def save_layer(self, name: str) -> None:
        """Inside the forward pass, after the layer has written its KV."""
        if not self._plan.saves:
            return
        place = self._layer_places.get(name)
        if place is None:
            return
        for save in self._plan.saves:
            for copy in save.copies:
                if copy.group == place[0]:
                    self._save(save, copy, place[1])

    def start_loads(self) -> None:
        """Hands this step's loads to the loader thread."""
        for load in self._plan.loads:
            self._loader.submit(load)

    def finish_step(self) -> None:
        """After the forward pass: state, which no attention hook sees, and the end of transfers."""
        for save in self._plan.saves:
            for copy in save.copies:
                if self._layout.groups[copy.group].kind is Kind.STATE:
                    for layer in range(len(self._layout.groups[copy.group].layers)):
                        self._save(save, copy, layer)
            if save.last:
                self._publisher.submit(None, ProducerDone(save.transfer_id, self._rank, complete=True))
        # Here and not when the next step begins: by then the engine may have zeroed or copied over blocks.
        self._copier.order_before_next_work()
        self._plan = StepPlan()

    def finished_loads(self) -> tuple[set[str], set[str]]:
        """(finished, failed) request ids since the last call; a failed one is in both."""
        return self._loader.take()

    def quiesce(self) -> None:
        """Called when the sidecar's connection has ended and `Sidecar.arena` is None: returns when no copy
        touches the arena any more. Until then the sidecar keeps the memory from others."""
        with self._saving, self._loading:
            self._publisher.drain()
            for arena in self._attached.values():
                if arena is not None:
                    self._copier.detach(arena.memory)
            self._attached.clear()

    def close(self) -> None:
        """Ends the threads."""
        self._publisher.close()
        self._loader.close()

    def _save(self, save: Save, copy: GroupCopy, layer: int) -> None:
        if not self._publishes:
            return
        with self._saving:
            arena = self._usable(save.memory)
            if arena is not None:
                self._gather(arena, save, copy, layer)

    def _gather(self, arena: Arena, save: Save, copy: GroupCopy, layer: int) -> None:
        cache = self._caches[copy.group][layer]
        lane = self._lane(copy.group, layer)
        unit_bytes = self._layout.groups[copy.group].layers[layer][1]
        for first, count in _runs(copy.places):
            ticket = self._copier.gather(
                cache,
                copy.block_ids[first : first + count],
                arena.memory,
                save.memory.offsets[lane] + copy.places[first] * unit_bytes,
            )
            self._publisher.submit(
                ticket, Publish(save.transfer_id, lane, copy.units[first], count, copy.tokens)
            )

    def carry_out(self, load: Load) -> None:
        """All copies of a load, in the loader's thread.

        Raises:
            LookupError: the arena is not the one that the load was planned for, or cannot be used.
        """
        with self._loading:
            arena = self._usable(load.memory)
            if arena is None:
                raise LookupError("the arena is not the one that the load was planned for, or cannot be used")
            self._scatter(arena, load)

    def _scatter(self, arena: Arena, load: Load) -> None:
        tickets: list[Ticket] = []
        for copy in load.copies:
            for layer, (_, unit_bytes) in enumerate(self._layout.groups[copy.group].layers):
                offset = load.memory.offsets[self._lane(copy.group, layer)]
                for first, count in _runs(copy.places):
                    tickets.append(
                        self._copier.scatter(
                            self._caches[copy.group][layer],
                            copy.block_ids[first : first + count],
                            arena.memory,
                            offset + copy.places[first] * unit_bytes,
                        )
                    )
        for ticket in tickets:
            ticket.wait()

    def _usable(self, memory: Memory) -> Arena | None:
        """The arena that ``memory`` lies in, ready for copies. One that cannot be attached costs the
        transfers, not the engine."""
        arena = self._sidecar.arena
        if arena is None or arena.key != memory.arena_key:
            return None
        with self._attaching:
            if arena.key not in self._attached:
                try:
                    self._copier.attach(arena.memory)
                except RuntimeError:
                    logger.exception("the sidecar's arena cannot be used: KV transfer is off")
                    self._attached[arena.key] = None
                else:
                    self._attached[arena.key] = arena
            return self._attached[arena.key]

    def _lane(self, group: int, layer: int) -> int:
        before = sum(len(earlier.layers) for earlier in self._layout.groups[:group])
        return (before + layer) * self._layout.shards + self._shard


class _Publisher:
    """Sends publications in order, each after its copy is done. A thread takes over only while a copy is
    still under way."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._queue: queue.SimpleQueue[tuple[Ticket | None, Message] | threading.Event | None] = (
            queue.SimpleQueue()
        )
        self._pending = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, ticket: Ticket | None, message: Message) -> None:
        with self._lock:
            if self._pending == 0 and (ticket is None or ticket.done()):
                self._sidecar.send(message)
                return
            self._pending += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prfaas-publisher", daemon=True)
                self._thread.start()
        self._queue.put((ticket, message))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            ticket, message = item
            try:
                if ticket is not None:
                    ticket.wait()
                self._sidecar.send(message)
            except Exception:
                # This thread must outlive whatever a device throws; what was not copied is not published.
                logger.exception("a copy to the arena failed; its units are not published")
            finally:
                with self._lock:
                    self._pending -= 1

    def drain(self) -> None:
        """Returns when every copy that was submitted has been carried out."""
        drained = threading.Event()
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(drained)
            drained.wait(DRAIN_SECONDS)

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(2.0)


class _Loader:
    """Carries loads out one after another beside the engine's step loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._queue: queue.SimpleQueue[Load | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._thread: threading.Thread | None = None

    def submit(self, load: Load | FailedLoad) -> None:
        if isinstance(load, FailedLoad):
            self._report(load.request_id, failed=True)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prfaas-loader", daemon=True)
            self._thread.start()
        self._queue.put(load)

    def _run(self) -> None:
        while (load := self._queue.get()) is not None:
            failed = True
            try:
                self._worker.carry_out(load)
                failed = False
            except Exception:
                # This thread must outlive it, or every later load would hang.
                logger.exception("loading transfer %s failed; the engine computes it", load.transfer_id)
            finally:
                self._report(load.request_id, failed)

    def _report(self, request_id: str, failed: bool) -> None:
        with self._lock:
            self._finished.add(request_id)
            if failed:
                self._failed.add(request_id)

    def take(self) -> tuple[set[str], set[str]]:
        with self._lock:
            # The caller must never hold a set that this class still adds to: an id would be reported twice.
            taken = (self._finished, self._failed)
            self._finished, self._failed = set(), set()
            return taken

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(2.0)


def _runs(places: tuple[int, ...]) -> list[tuple[int, int]]:
    """(index of the first, length) of each run of consecutive places."""
    runs: list[tuple[int, int]] = []
    start = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index] != places[index - 1] + 1:
            runs.append((start, index - start))
            start = index
    return runs
