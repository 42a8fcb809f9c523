"""An engine of real parts without a model: vLLM's own Scheduler or AsyncScheduler, both halves of the
connector, and a model runner whose KV is a function of the tokens, so that wrong KV is noticed when it is
read.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import (
    get_request_block_hasher,
    init_none_hash,
    resolve_kv_cache_block_sizes,
)
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig, MambaSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from prfaas_connector.steps import FailedLoad
from tests.connector.vllm_configs import BLOCK_TOKENS, Settings, kv_cache_config, vllm_config

VOCABULARY = 1000
SECONDS = 20.0


def prefixes(tokens: Sequence[int]) -> list[int]:
    """One number per position that stands for all tokens up to it."""
    numbers, running = [], 1
    for token in tokens:
        running = zlib.crc32(token.to_bytes(4, "little"), running)
        numbers.append(running)
    return numbers


def kv_value(prefix: int, layer: str) -> float:
    """Small enough to be exact as float32, and never 0, which is what cleared memory holds."""
    return float((prefix ^ zlib.crc32(layer.encode())) % (1 << 22) + 1)


def next_token(prefix: int) -> int:
    return prefix % VOCABULARY


def expected_output(prompt: Sequence[int], count: int) -> list[int]:
    """What any engine must answer, with or without a transfer."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(prefixes(tokens)[-1]))
    return tokens[len(prompt) :]


class WrongKVError(AssertionError):
    """The engine read KV that is not its prompt's."""


class ModelRunner:
    """Executes steps on tensors, in the order in which vLLM's model runners call the connector."""

    def __init__(self, connector: Any, config: KVCacheConfig, scheduler: Any) -> None:
        self.connector = connector
        self._config = config
        self._scheduler = scheduler
        self.tokens: dict[str, list[int]] = {}
        self.scheduled: list[dict[str, int]] = []
        self._state_block: dict[str, int] = {}
        self.caches: dict[str, Any] = {}
        for group in config.kv_cache_groups:
            spec = group.kv_cache_spec
            shape = (1, 1, 4) if isinstance(spec, MambaSpec) else (1, BLOCK_TOKENS, 2)
            for name in group.layer_names:
                self.caches[name] = torch.full((config.num_blocks, *shape), -1.0)
        connector.register_kv_caches(self.caches)

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        self._update_states(step)
        self.scheduled.append(dict(step.num_scheduled_tokens))
        self.connector.bind_connector_metadata(step.kv_connector_metadata)
        sampled = self._forward(step) if step.total_num_scheduled_tokens else {}
        self.connector.start_load_kv(None)
        self.connector.wait_for_save()
        results = self.connector.get_transfer_results(step.finished_req_ids)
        self.connector.clear_connector_metadata()
        output = KVConnectorOutput(
            finished_recving=results.finished_recving or None, failed_recving=results.failed_recving
        )
        names = list(step.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[sampled[name] for name in names],
            kv_connector_output=output,
        )

    def _update_states(self, step: SchedulerOutput) -> None:
        for name in step.finished_req_ids:
            self.tokens.pop(name, None)
            self._state_block.pop(name, None)
        for data in step.scheduled_new_reqs:
            self._state_block.pop(data.req_id, None)
            if data.req_id in self.tokens:
                # Model runner V2 gets resumed requests as new ones, with all their tokens.
                assert self._scheduler.use_v2_model_runner
                assert self.tokens[data.req_id] == list(data.prefill_token_ids)
            else:
                self.tokens[data.req_id] = list(data.prompt_token_ids)
        for name in step.scheduled_cached_reqs.resumed_req_ids:
            assert not self._scheduler.use_v2_model_runner
            self._state_block.pop(name, None)
        # Before the connector hears of the step, as in vLLM's model runners.
        for block in step.new_block_ids_to_zero or ():
            for cache in self.caches.values():
                cache[block] = 0.0

    def _forward(self, step: SchedulerOutput) -> dict[str, list[int]]:
        work = {}
        for name, count in step.num_scheduled_tokens.items():
            # The scheduler has advanced it past this step already.
            start = self._scheduler.requests[name].num_computed_tokens - count
            known = self.tokens[name]
            assert start + count <= len(known), f"{name} computes tokens that nobody knows"
            work[name] = (start, start + count, prefixes(known))
        for index, group in enumerate(self._config.kv_cache_groups):
            for layer in group.layer_names:
                for name, (start, end, numbers) in work.items():
                    table = self._scheduler.kv_cache_manager.get_block_ids(name)[index]
                    if isinstance(group.kv_cache_spec, MambaSpec):
                        self._compute_state(name, layer, table, start, end, numbers)
                    else:
                        span = getattr(group.kv_cache_spec, "sliding_window", None) or end
                        self._attend(name, layer, table, start, end, numbers, span)
                if not isinstance(group.kv_cache_spec, MambaSpec):
                    self.connector.save_kv_layer(layer, self.caches[layer], None)
            for name in work:
                if isinstance(group.kv_cache_spec, MambaSpec):
                    self._state_block[name] = (
                        len(self._scheduler.kv_cache_manager.get_block_ids(name)[index]) - 1
                    )
        sampled: dict[str, list[int]] = {}
        for name, (_, end, numbers) in work.items():
            whole = end == len(self.tokens[name])
            sampled[name] = [next_token(numbers[end - 1])] if whole else []
            self.tokens[name] += sampled[name]
        return sampled

    def _attend(
        self, name: str, layer: str, table: list[int], start: int, end: int, numbers: list[int], span: int
    ) -> None:
        cache = self.caches[layer]
        for position in range(max(0, start + 1 - span), start):
            held = cache[table[position // BLOCK_TOKENS], 0, position % BLOCK_TOKENS]
            if held.tolist() != [kv_value(numbers[position], layer)] * 2:
                raise WrongKVError(f"{name}, {layer}, position {position} of {start}: {held.tolist()}")
        for position in range(start, end):
            block = table[position // BLOCK_TOKENS]
            assert block != 0, "a token is written to the null block"
            cache[block, 0, position % BLOCK_TOKENS] = kv_value(numbers[position], layer)

    def _compute_state(
        self, name: str, layer: str, table: list[int], start: int, end: int, numbers: list[int]
    ) -> None:
        cache = self.caches[layer]
        if start:
            # As vLLM finds the state to go on from: where it left it, or where a prefix of that length ends.
            block = self._state_block.get(name, min(len(table) - 1, (start - 1) // BLOCK_TOKENS))
            held = cache[table[block]].flatten().tolist()
            if held != [kv_value(numbers[start - 1], layer)] * 4:
                raise WrongKVError(f"{name}, {layer}, state after {start} tokens: {held}")
        cache[table[-1]] = kv_value(numbers[end - 1], layer)


class Engine:
    """Scheduler, connector and runner; `step` is one turn of vLLM's engine core."""

    def __init__(self, settings: Settings, socket: Path) -> None:
        init_none_hash(sha256)
        self.settings = settings
        self.config = vllm_config(settings, socket)
        caches = kv_cache_config(settings)
        block_size, hash_block_size = resolve_kv_cache_block_sizes(caches, self.config)
        kind = AsyncScheduler if settings.asynchronous else Scheduler
        self.scheduler = kind(
            vllm_config=self.config,
            kv_cache_config=caches,
            structured_output_manager=StructuredOutputManager(self.config),
            block_size=block_size,
            hash_block_size=hash_block_size,
            log_stats=True,
        )
        self.scheduler.use_v2_model_runner = settings.v2
        self._hasher = get_request_block_hasher(hash_block_size, sha256)
        self.connector = self.scheduler.connector
        worker = KVConnectorFactory.create_connector(self.config, KVConnectorRole.WORKER, caches)
        self.runner = ModelRunner(worker, caches, self.scheduler)
        self._in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        self.outputs: dict[str, list[int]] = {}
        self.finished: dict[str, str] = {}
        self.parameters: dict[str, Any] = {}
        self.external_tokens: dict[str, int] = {}
        self.planned_loads: Counter[str] = Counter()
        self.reported_loads: Counter[str] = Counter()
        self.failed_loads: set[str] = set()
        self.free_blocks = self.free()

    def free(self) -> int:
        free: int = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return free

    def wait_until_connected(self) -> None:
        until(
            lambda: self.connector._scheduling._client.connected and self.runner.connector._client.connected,
            what="the engine is not connected to the sidecar",
        )

    def add(
        self,
        name: str,
        prompt: Sequence[int],
        parameters: dict[str, Any] | None = None,
        max_tokens: int = 4,
        **request: Any,
    ) -> Request:
        sampling = request.pop("sampling", None) or SamplingParams(
            max_tokens=max_tokens,
            ignore_eos=True,
            extra_args={"kv_transfer_params": {"prfaas": parameters}} if parameters is not None else None,
        )
        made = Request(
            request_id=name,
            prompt_token_ids=list(prompt),
            sampling_params=sampling,
            pooling_params=None,
            block_hasher=self._hasher,
            **request,
        )
        self.outputs[name] = []
        self.scheduler.add_request(made)
        return made

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def preempt(self, name: str) -> Request | None:
        """What the scheduler does when blocks run out. None: the request is not running."""
        request = self.scheduler.requests.get(name)
        if request not in self.scheduler.running:
            return None
        self.scheduler.running.remove(request)
        self.scheduler._preempt_request(request, time.monotonic())
        return request

    def step(self) -> bool:
        """One turn. Returns whether anything was computed or processed."""
        depth = 2 if self.settings.asynchronous else 1
        computed = False
        if self.scheduler.has_requests():
            step = self.scheduler.schedule()
            plan = step.kv_connector_metadata.plan
            self.planned_loads.update(load.request_id for load in plan.loads)
            self.failed_loads |= {load.request_id for load in plan.loads if isinstance(load, FailedLoad)}
            self._in_flight.append((step, self.runner.execute(step)))
            computed = step.total_num_scheduled_tokens > 0
            if len(self._in_flight) < depth and (computed or self.scheduler.has_requests()):
                return computed
        if self._in_flight:
            self._update(*self._in_flight.popleft())
        return computed

    def _update(self, step: SchedulerOutput, output: ModelRunnerOutput) -> None:
        connector_output = output.kv_connector_output
        assert connector_output is not None
        self.reported_loads.update(connector_output.finished_recving or ())
        for answers in self.scheduler.update_from_output(step, output).values():
            for answer in answers.outputs:
                self.outputs[answer.request_id] += answer.new_token_ids
                if answer.prefill_stats is not None:
                    self.external_tokens[answer.request_id] = answer.prefill_stats.num_external_cached_tokens
                if answer.finish_reason is not None:
                    self.finished[answer.request_id] = str(answer.finish_reason)
                    self.parameters[answer.request_id] = answer.kv_transfer_params

    @property
    def idle(self) -> bool:
        return not self.scheduler.has_requests() and not self._in_flight

    def check_nothing_is_left(self) -> None:
        """What must hold of every engine that has answered everything."""
        assert self.idle
        assert not self.scheduler.requests
        assert not self.scheduler.running
        assert not self.scheduler.waiting
        assert not self.scheduler.kv_holding_waiting
        assert not self.scheduler.deferred_frees
        assert self.free() == self.free_blocks
        half = self.connector._scheduling
        for left in (
            half._producing,
            half._consuming,
            half._requests,
            half._requests_by_transfer,
            half._refused,
            half._rate._in_flight,
        ):
            assert not left
        assert self.reported_loads == self.planned_loads
        assert set(self.reported_loads.values()) <= {1}
        assert not self.runner.connector._worker.finished_loads()[0]

    def close(self) -> None:
        self.scheduler.shutdown()
        self.runner.connector.shutdown()


def until(condition: Callable[[], Any], *engines: Engine, what: str = "") -> None:
    """Steps the engines in turns until the condition holds.

    Raises:
        AssertionError: it did not come to hold.
    """
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what or "the engines did not get there"
        if not [engine for engine in engines if engine.step()]:
            time.sleep(0.001)


def settle(*engines: Engine) -> None:
    """Steps until every engine has answered everything, and checks that nothing is left."""
    until(lambda: all(engine.idle for engine in engines), *engines, what="requests never end")
    for engine in engines:
        engine.check_nothing_is_left()
