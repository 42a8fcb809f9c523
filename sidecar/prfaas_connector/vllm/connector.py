"""vLLM's connector class. Every method hands over to `Scheduler` or `Worker`; vLLM's contract is in its base
module."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import group_kernel_blocks

from prfaas_connector.arena import Arena
from prfaas_connector.client import SidecarClient, as_worker
from prfaas_connector.device.base import DeviceCopier
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.device.lazy import LazyCopier
from prfaas_connector.local_api.messages import PROTOCOL, Hello, Message
from prfaas_connector.manifest import Kind, Layout
from prfaas_connector.steps import StepPlan
from prfaas_connector.vllm import facts, fingerprint, support
from prfaas_connector.vllm.scheduler import Scheduler
from prfaas_connector.vllm.settings import Settings
from prfaas_connector.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger("prfaas.connector")


class StepMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """A `StepPlan` on its way from the scheduler to the workers."""

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan


class PrfaasConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Ships KV through a prfaas sidecar. vLLM makes one for its scheduler and one per worker rank."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        _show_own_log()
        transfer = vllm_config.kv_transfer_config
        self._settings = Settings.from_extra_config(transfer.kv_connector_extra_config)
        support.check(vllm_config, kv_cache_config, self._settings)
        self._layout = support.layout(vllm_config, kv_cache_config)
        hello = _hello(vllm_config, kv_cache_config, self._layout, self._settings)
        self._scheduler: Scheduler | None = None
        self._worker: Worker | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = Scheduler(
                self._layout,
                self._settings,
                hello,
                produces=transfer.is_kv_producer,
                consumes=transfer.is_kv_consumer,
            )
            self._facts = facts.tell_in_background(vllm_config, self._settings.socket, self._scheduler.tell)
        else:
            self._hello = hello

    @property
    def supports_divergent_local_hybrid_hits(self) -> bool:
        """Recurrent state always comes with a load, so the local attention hit may be deeper than the local
        state. Windows and further attention groups come only from where the local hit ends."""
        kinds = [group.kind for group in self._layout.groups]
        return kinds.count(Kind.ATTENTION) == 1 and Kind.WINDOW not in kinds

    @property
    def requires_kv_delivery(self) -> bool:
        """KV is copied out while it is computed: a preemption takes nothing away that was announced."""
        return False

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Producers set ``layerwise``; decode engines keep full graphs."""
        return bool(extra_config.get("layerwise", False))

    # Scheduler side.

    @property
    def _scheduling(self) -> Scheduler:
        if self._scheduler is None:
            raise RuntimeError("a scheduler-side method was called on a worker-side connector")
        return self._scheduler

    def on_new_request(self, request: Any) -> None:
        """Opens the transfer, so that the pull starts before the request is scheduled."""
        if request.kv_transfer_params:
            self._scheduling.on_new_request(request, self._local_tokens(request))

    def _local_tokens(self, request: Any) -> int:
        if self._kv_cache_manager is None:
            return 0
        # As the engine's scheduler will look it up.
        lookup = (
            self._kv_cache_manager.get_computed_blocks_for_connector
            if self.supports_divergent_local_hybrid_hits
            else self._kv_cache_manager.get_computed_blocks
        )
        local = int(lookup(request)[1])
        grain = max(group.block_tokens for group in self._layout.groups)
        return local if local % grain == 0 else 0

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """None: not yet. Loads are always asynchronous."""
        tokens = self._scheduling.matched(request, num_computed_tokens)
        return tokens, bool(tokens)

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple[int, ...]:
        """A load restores every group."""
        return tuple(self._kv_cache_config.transfer_group_ids)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plans the load."""
        self._scheduling.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """The plan of this step."""
        return StepMetadata(self._scheduling.plan_step(scheduler_output))

    def update_connector_output(self, connector_output: Any) -> None:
        """Loads that every rank has finished."""
        if connector_output.finished_recving:
            self._scheduling.finished_loading(
                connector_output.finished_recving, connector_output.failed_recving
            )

    def take_events(self) -> Iterable[Any]:
        """None. vLLM asks once for each step whose output it has processed, empty ones included, in the order
        in which they were scheduled; there is no other hook at a step's end."""
        self._scheduling.step_ended()
        return ()

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Blocks may be freed at once: nothing reads them after the step that computed them."""
        return False, self._scheduling.request_finished(request)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """As `request_finished`, for models with several KV cache groups."""
        return self.request_finished(request, [])

    # Worker side.

    def register_kv_caches(self, kv_caches: Mapping[str, Any]) -> None:
        """Connects this rank to the sidecar and takes its tensors."""
        blocks = self._kv_cache_config.num_blocks
        named = {name: group_kernel_blocks(cache, blocks) for name, cache in kv_caches.items()}
        device = next(iter(named.values())).device
        rank = self._vllm_config.parallel_config.rank % self._vllm_config.parallel_config.tensor_parallel_size
        client = SidecarClient(
            self._settings.socket, as_worker(self._hello, rank), _unexpected, _connected, self._disconnected
        )
        self._worker = Worker(
            self._layout, rank, self._kv_cache_config.kv_tp_replicas, self._copier(device), client
        )
        self._worker.register(named)
        client.start()
        self._client = client

    def _disconnected(self) -> None:
        logger.warning("worker lost the sidecar")
        if self._worker is not None:
            self._worker.quiesce()

    def _copier(self, device: Any) -> DeviceCopier:
        if device.type == "cuda":
            from prfaas_connector.device.cuda import CudaCopier

            return CudaCopier(device)
        if device.type != "cpu":
            raise support.UnsupportedError(f"prfaas does not support KV caches on {device.type}")
        return LazyCopier(CpuCopier()) if self._settings.device == "lazy" else CpuCopier()

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """The step begins."""
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None and isinstance(connector_metadata, StepMetadata):
            self._worker.begin_step(connector_metadata.plan)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Loads run in a thread beside the step."""
        if self._worker is not None:
            self._worker.start_loads()

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a request runs only after its load was reported."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Copies the layer's new blocks to the arena."""
        if self._worker is not None:
            self._worker.save_layer(layer_name)

    def wait_for_save(self) -> None:
        """State groups, which the layer hook never sees, and the end of transfers."""
        if self._worker is not None:
            self._worker.finish_step()

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Loads that this rank has finished since the last call."""
        if self._worker is None:
            return KVConnectorTransferResults()
        finished, failed = self._worker.finished_loads()
        return KVConnectorTransferResults(finished_recving=finished, failed_recving=failed)

    def shutdown(self) -> None:
        """Ends threads and connections."""
        if self._scheduler is not None:
            self._facts.close()
            self._scheduler.close()
        if self._worker is not None:
            self._worker.close()
            self._client.close()


def _hello(vllm_config: Any, kv_cache_config: Any, layout: Layout, settings: Settings) -> Hello:
    named = fingerprint.fields(vllm_config, kv_cache_config, layout, settings)
    transfer = vllm_config.kv_transfer_config
    role = (
        "both"
        if transfer.is_kv_producer and transfer.is_kv_consumer
        else "producer"
        if transfer.is_kv_producer
        else "consumer"
    )
    return Hello(
        protocol=PROTOCOL,
        side="scheduler",
        role=role,
        rank=0,
        world_size=vllm_config.parallel_config.tensor_parallel_size,
        pid=os.getpid(),
        fingerprint=fingerprint.digest(named),
        fingerprint_fields=named,
    )


def _show_own_log() -> None:
    """vLLM configures only its own loggers; without a handler the connector's warnings would be lost."""
    own = logging.getLogger("prfaas")
    if not own.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s [%(name)s] %(message)s"))
        own.addHandler(handler)
        own.setLevel(logging.INFO)
        # Some of the engine's libraries give the root logger a handler of their own.
        own.propagate = False


def _unexpected(message: Message) -> None:
    logger.error("the sidecar sent %s, which is not for a worker", message.TYPE)


def _connected(arena: Arena) -> None:
    logger.info("worker connected to the sidecar; arena of %d bytes", arena.size_bytes)
