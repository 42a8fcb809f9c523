"""The scheduler side: turns vLLM's calls into questions to `ProducerTransfer` and `ConsumerTransfer`."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from prfaas_connector.arena import Arena
from prfaas_connector.client import SidecarClient
from prfaas_connector.consumer import ConsumerTransfer, MissingUnitsError, Phase
from prfaas_connector.local_api.messages import (
    Abort,
    Accepted,
    Ended,
    Facts,
    Hello,
    Message,
    Progress,
    Refused,
    Release,
    Wanted,
)
from prfaas_connector.manifest import Layout, Manifest
from prfaas_connector.producer import ProducerTransfer
from prfaas_connector.rate import PrefillRate
from prfaas_connector.request import DecodeLeg, ParametersError, PrefillLeg, parse, prompt_digest
from prfaas_connector.steps import FailedLoad, StepPlan
from prfaas_connector.vllm.settings import Settings

logger = logging.getLogger("prfaas.connector")


class Scheduler:
    """One per engine. vLLM calls from its scheduler's thread; the sidecar's answers come in the client's."""

    def __init__(
        self, layout: Layout, settings: Settings, hello: Hello, *, produces: bool, consumes: bool
    ) -> None:
        self._layout = layout
        self._produces = produces
        self._consumes = consumes
        self._lock = threading.Lock()
        self._producing: dict[str, ProducerTransfer] = {}  # by request id
        self._consuming: dict[str, ConsumerTransfer] = {}  # by request id
        self._requests_by_transfer: dict[str, str] = {}
        self._requests: dict[str, Any] = {}
        self._refused: dict[str, Refused] = {}  # prefill legs without a transfer, by request id
        self._plan = StepPlan()
        self._max_patience_seconds = settings.max_patience_seconds
        self._rate = PrefillRate(settings.local_prefill_tokens_per_second)
        self._client = SidecarClient(
            settings.socket, hello, self._receive, self._on_connected, self._on_disconnected
        )
        self._client.start()

    def tell(self, facts: Facts) -> None:
        """What the sidecar may tell others of this engine. From any thread."""
        self._client.tell(facts)

    # Requests.

    def on_new_request(self, request: Any, local_tokens: int) -> None:
        """A request entered the engine. ``local_tokens``: its prefix in the engine's own cache."""
        try:
            leg = parse(request.kv_transfer_params)
        except ParametersError as error:
            logger.warning("request %s is served without KV transfer: %s", request.request_id, error)
            return
        if leg is None:
            return
        refusal = self._refusal(request, leg)
        if refusal is not None:
            logger.warning("transfer %s is not used: %s: %s", leg.transfer_id, refusal.code, refusal.message)
            if isinstance(leg, PrefillLeg):
                self._client.send(Abort(leg.transfer_id, refusal.code))
                with self._lock:
                    self._refused[request.request_id] = refusal
            return
        manifest = Manifest(self._layout, len(request.prompt_token_ids))
        now = time.monotonic()
        with self._lock:
            if leg.transfer_id in self._requests_by_transfer:
                # The sidecar's answers name transfers, not requests.
                logger.warning(
                    "transfer %s is not used: TransferExists: another request has it", leg.transfer_id
                )
                return
            self._requests_by_transfer[leg.transfer_id] = request.request_id
            if isinstance(leg, PrefillLeg):
                transfer = ProducerTransfer(leg, manifest, now)
                self._producing[request.request_id] = transfer
                self._requests[request.request_id] = request
                sent = self._client.send(transfer.announcement())
            else:
                incoming = ConsumerTransfer(
                    leg, manifest, manifest.want(local_tokens), now, self._max_patience_seconds
                )
                self._consuming[request.request_id] = incoming
                sent = self._client.send(incoming.announcement())
            if not sent:
                self._forget(request.request_id)
                if isinstance(leg, PrefillLeg):
                    gone = Refused(leg.transfer_id, "SidecarGone", "the connection to the sidecar broke")
                    self._refused[request.request_id] = gone
        if isinstance(leg, PrefillLeg) and self._layout.has_state:
            _drop_last_token(request)

    def _refusal(self, request: Any, leg: PrefillLeg | DecodeLeg) -> Refused | None:
        def refused(code: str, message: str) -> Refused:
            return Refused(leg.transfer_id, code, message)

        if not (self._produces if isinstance(leg, PrefillLeg) else self._consumes):
            return refused("NotSupported", "this engine's kv_role does not allow it")
        if request.prompt_token_ids is None:
            return refused("NotSupported", "the prompt has no token ids")
        if len(request.prompt_token_ids) < self._layout.least_prompt_tokens:
            return refused("NotSupported", "the prompt is too short to have KV")
        if request.mm_features or request.prompt_embeds is not None:
            return refused("NotSupported", "media and embeddings are not part of the prompt digest")
        if request.lora_request is not None:
            return refused("NotSupported", "LoRA is not part of the prompt digest")
        if request.get_skip_reading_prefix_cache():
            return refused("NotSupported", "the engine ignores external KV for prompt log-probabilities")
        if prompt_digest(request.prompt_token_ids, request.cache_salt) != leg.prompt_digest:
            return refused("PromptMismatch", "the engine's prompt is not the one that the gateway announced")
        if not self._client.connected:
            return refused("SidecarGone", "there is no connection to the sidecar")
        return None

    def matched(self, request: Any, local_tokens: int) -> int | None:
        """Answers `get_num_new_matched_tokens`: 0 for requests without an open transfer."""
        now = time.monotonic()
        with self._lock:
            outgoing = self._producing.get(request.request_id)
            if outgoing is not None:
                return None if outgoing.waiting(now) else 0
            incoming = self._consuming.get(request.request_id)
            if incoming is None:
                return 0
            return incoming.matched(local_tokens, self._rate.tokens_per_second, now)

    def allocated(self, request: Any, block_ids: tuple[list[int], ...], external_tokens: int) -> None:
        """The engine has blocks for the request; ``external_tokens`` of them are to be loaded."""
        with self._lock:
            incoming = self._consuming.get(request.request_id)
            if incoming is None or incoming.phase is not Phase.WAITING:
                return
            if external_tokens == 0:
                self._release(request.request_id, incoming)
                return
            try:
                self._plan.loads.append(incoming.load(request.request_id, external_tokens, block_ids))
            except MissingUnitsError as error:
                logger.warning("transfer %s is computed here: %s", incoming.leg.transfer_id, error)
                incoming.phase, incoming.taken_tokens = Phase.LOADING, 0
                self._plan.loads.append(FailedLoad(request.request_id))

    def plan_step(self, scheduler_output: Any) -> StepPlan:
        """What the workers do in the step that was just scheduled."""
        scheduled = scheduler_output.num_scheduled_tokens
        with self._lock:
            for request_id, transfer in self._producing.items():
                tokens = scheduled.get(request_id)
                if tokens is None:
                    continue
                computed = self._requests[request_id].num_computed_tokens
                block_ids = scheduler_output.kv_connector_block_state.get_block_ids(request_id)
                save = transfer.step(computed, computed + tokens, block_ids)
                if save is not None:
                    self._plan.saves.append(save)
            plan, self._plan = self._plan, StepPlan()
        self._rate.step_scheduled(time.monotonic(), _prefill_tokens(scheduler_output))
        return plan

    def step_ended(self) -> None:
        """The engine has the output of the oldest step that it has not ended yet."""
        self._rate.step_ended(time.monotonic())

    def finished_loading(self, request_ids: set[str], failed: set[str]) -> None:
        """Every rank has loaded (or failed to): the arena is no longer read. ``failed`` is part of
        ``request_ids``."""
        with self._lock:
            for request_id in request_ids:
                incoming = self._consuming.get(request_id)
                if incoming is not None:
                    if request_id in failed:
                        incoming.taken_tokens = 0
                    self._release(request_id, incoming)

    def request_finished(self, request: Any) -> dict[str, Any] | None:
        """The request ended or was aborted. Returns what the engine adds to its answer for the gateway."""
        with self._lock:
            refused = self._refused.pop(request.request_id, None)
            if refused is not None:
                return _answer(refused.transfer_id, refused.code)
            outgoing = self._producing.pop(request.request_id, None)
            if outgoing is not None:
                self._requests.pop(request.request_id, None)
                self._requests_by_transfer.pop(outgoing.leg.transfer_id, None)
                if (abort := outgoing.abandon("PrefillFailed")) is not None:
                    self._client.send(abort)
                    self._plan.dropped.append(outgoing.leg.transfer_id)
                return _answer(
                    outgoing.leg.transfer_id, outgoing.refused.code if outgoing.refused is not None else None
                )
            incoming = self._consuming.get(request.request_id)
            if incoming is not None and incoming.phase is Phase.WAITING:
                self._release(request.request_id, incoming)
        return None

    # The sidecar. Called in the client's thread.

    def _on_connected(self, arena: Arena) -> None:
        logger.info("connected to the sidecar; arena of %d bytes", arena.size_bytes)

    def _on_disconnected(self) -> None:
        gone = "the connection to the sidecar broke"
        with self._lock:
            for outgoing in self._producing.values():
                if not outgoing.finished:
                    outgoing.refused = Refused(outgoing.leg.transfer_id, "SidecarGone", gone)
            for incoming in self._consuming.values():
                # A sidecar that lives on may give the memory to others: what landed there is not taken.
                incoming.ended, incoming.memory = incoming.ended or "SidecarGone", None

    def _receive(self, message: Message) -> None:
        if not isinstance(message, (Accepted, Refused, Wanted, Progress, Ended)):
            logger.error("the sidecar sent %s, which is not for the scheduler side", message.TYPE)
            return
        arena = self._client.arena
        with self._lock:
            request_id = self._requests_by_transfer.get(message.transfer_id)
            if request_id is None or arena is None:
                return
            if (outgoing := self._producing.get(request_id)) is not None:
                outgoing.receive(message, arena.key, arena.size_bytes)
            elif (incoming := self._consuming.get(request_id)) is not None:
                incoming.receive(message, arena.key, arena.size_bytes, time.monotonic())
            if isinstance(message, Refused):
                logger.warning("transfer %s: %s: %s", message.transfer_id, message.code, message.message)

    def _release(self, request_id: str, incoming: ConsumerTransfer) -> None:
        incoming.phase = Phase.DONE
        self._client.send(Release(incoming.leg.transfer_id, incoming.taken_tokens))
        logger.info(
            "transfer %s: took %d of %d tokens (%s)",
            incoming.leg.transfer_id,
            incoming.taken_tokens,
            incoming.manifest.target_tokens,
            incoming.ended or (incoming.reason.value if incoming.reason is not None else "request ended"),
        )
        self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._requests.pop(request_id, None)
        for transfers in (self._producing, self._consuming):
            transfer = transfers.pop(request_id, None)
            if transfer is not None:
                self._requests_by_transfer.pop(transfer.leg.transfer_id, None)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()


def _answer(transfer_id: str, refused: str | None) -> dict[str, Any]:
    return {"prfaas": {"transfer_id": transfer_id, "refused": refused}}


def _drop_last_token(request: Any) -> None:
    """The producer stops one token short, so that its recurrent state is the one from which decoding computes
    the last token."""
    del request.prompt_token_ids[-1:]
    del request._all_token_ids[-1:]  # noqa: SLF001 - vLLM has no public way to shorten a prompt
    request.num_prompt_tokens -= 1
    request.max_tokens = 1


def _prefill_tokens(scheduler_output: Any) -> int:
    """Tokens of this step that are prefill, if nothing but prefill of one request is in it; else 0."""
    scheduled = list(scheduler_output.num_scheduled_tokens.values())
    return int(scheduled[0]) if len(scheduled) == 1 and scheduled[0] > 1 else 0
