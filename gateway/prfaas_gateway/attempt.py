"""One attempt at a request: a decode leg and, when remote, the prefill leg that feeds it.

An attempt ends with an answer that has begun, or it leaves nothing behind: both legs are cancelled and both
sidecars are told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from yarl import URL

from prfaas_gateway.body import Body
from prfaas_gateway.classify import Endpoint, Kind
from prfaas_gateway.control import ControlClient, ControlError, ControlTarget, TransferRecord, new_transfer_id
from prfaas_gateway.decode_leg import Answer, DecodeError
from prfaas_gateway.fleet import Decoder, Prefiller
from prfaas_gateway.intake import Intake
from prfaas_gateway.ladder import Step
from prfaas_gateway.prefix_index import PromptBlocks
from prfaas_gateway.prompt import PreparedPrompt
from prfaas_gateway.services import Services
from prfaas_gateway.streams import Account

_RESPONSE_SLACK_SECONDS = 2
"""What a prefill leg's HTTP answer may take beyond the transfer's deadline."""

_PATH_CODES = frozenset(
    {
        "ChecksumMismatch",
        "DeadlineExceeded",
        "FingerprintMismatch",
        "LayoutMismatch",
        "LinkLost",
        "NotAuthorised",
        "PeerNotAllowed",
        "PeerSilent",
        "PeerUnreachable",
        "ProtocolError",
    }
)
"""Ends of a transfer that speak against its producer or the way to it."""


_WAY_CODES = frozenset({"LinkLost", "PeerSilent", "PeerUnreachable"})
"""Those of them that a region which is cut off for KV alone would bring for each of its pods."""


class RetryRemoteError(Exception):
    """This attempt is given up for another one with another prefill engine."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What both legs of a remote attempt agree on.

    Attributes:
        uncached_tokens: what the prefill engine is believed to have to compute.
        first_kv_seconds: how long its queue may keep the decode engine without any KV.
    """

    id: str
    control: ControlClient
    prefiller: Prefiller
    producer: ControlTarget
    consumer: ControlTarget
    uncached_tokens: int
    deadline_seconds: float
    first_kv_seconds: float | None = None

    @classmethod
    def plan(
        cls,
        services: Services,
        intake: Intake,
        decoder: Decoder,
        prefiller: Prefiller,
        matched_blocks: int,
        first_kv_seconds: float | None = None,
    ) -> Transfer:
        """A new transfer for a request that may be remote."""
        prompt, control, consumer = intake.prompt, services.control, decoder.target
        if prompt is None or control is None or consumer is None:
            raise AssertionError("a remote attempt needs tokens, a control client and a decode sidecar")
        uncached = max(1, prompt.tokens - matched_blocks * intake.model.block_tokens)
        timeouts = services.config.timeouts
        return cls(
            id=new_transfer_id(),
            control=control,
            prefiller=prefiller,
            producer=prefiller.target,
            consumer=consumer,
            uncached_tokens=uncached,
            deadline_seconds=round(
                timeouts.transfer_seconds + timeouts.transfer_seconds_per_1000_tokens * prompt.tokens / 1000,
                3,
            ),
            first_kv_seconds=first_kv_seconds,
        )

    def prefill_body(self, prompt: PreparedPrompt, model: str, cache_salt: str) -> bytes:
        """The prefill leg's body: these fields and no others, whatever the client sent."""
        fields = {
            "model": model,
            "max_tokens": 1,
            "stream": False,
            "kv_transfer_params": {
                "prfaas": {
                    "version": 1,
                    "leg": "prefill",
                    "transfer_id": self.id,
                    "prompt_digest": prompt.digest,
                    "consumer": self.consumer.identity,
                    "deadline_seconds": self.deadline_seconds,
                }
            },
        }
        if cache_salt:
            fields["cache_salt"] = cache_salt
        head = json.dumps(fields, separators=(",", ":")).encode()
        return b'{"prompt":' + prompt.ids_json + b"," + head[1:]

    def decode_body(self, prompt: PreparedPrompt, kind: Kind, body: Body) -> bytes:
        """The decode leg's body: the client's own, with the transfer and the prompt's token ids.

        vLLM 0.32 takes ids beside the messages of a chat, but not beside the text of a completion; there they
        stand in the text's place.
        """
        params = self._decode_params(prompt.digest)
        if kind.endpoint is Endpoint.CHAT:
            ids = b'{"prompt_token_ids":' + prompt.ids_json + b","
            return body.with_transfer(ids + params[1:])
        if kind.text_prompt:
            return body.with_token_ids(prompt.ids_json, params)
        return body.with_transfer(params)

    def _decode_params(self, digest: str) -> bytes:
        engine = self.prefiller.config
        producer = {"address": engine.kv_address, "identity": engine.identity}
        if engine.kv_server_name is not None:
            producer["server_name"] = engine.kv_server_name
        prfaas: dict[str, object] = {
            "version": 1,
            "leg": "decode",
            "transfer_id": self.id,
            "prompt_digest": digest,
            "producer": producer,
            "deadline_seconds": self.deadline_seconds,
        }
        if self.first_kv_seconds is not None:
            prfaas["first_kv_seconds"] = round(self.first_kv_seconds, 3)
        return json.dumps({"prfaas": prfaas}, separators=(",", ":")).encode()


PrefillVerdict = Callable[[ControlError, int | None], Step]
"""Asks the ladder what follows from a failed prefill leg and the units that have landed so far."""


class Attempt:
    """Runs the legs of one attempt.

    Attributes:
        prefill_code: how the prefill leg ended ("OK" or a code), or None as long as it has not.
    """

    def __init__(
        self,
        services: Services,
        decoder: Decoder,
        transfer: Transfer | None,
        headers: list[tuple[str, str]],
        trace_headers: dict[str, str],
    ) -> None:
        self.decoder = decoder
        self.transfer = transfer
        self.landed_units: int | None = None
        self.prefill_code: str | None = None
        self._services = services
        self._headers = headers
        self._trace_headers = trace_headers
        self._prefill: asyncio.Task[ControlError | None] | None = None

    async def first_byte(self, intake: Intake, url: URL, account: Account, verdict: PrefillVerdict) -> Answer:
        """Run both legs until the decode leg has something for the client.

        Raises:
            DecodeError: the decode leg failed.
            RetryRemoteError: the prefill leg failed, and ``verdict`` chose another attempt.
        """
        decode = asyncio.create_task(self._run_decode(intake, url, account), name="decode leg")
        waiting: set[asyncio.Task[object]] = {decode}
        if self.transfer is not None:
            leg = self._run_prefill(self.transfer, intake)
            self._prefill = asyncio.create_task(leg, name="prefill leg")
            waiting.add(self._prefill)
        try:
            while not decode.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self._prefill in done and not decode.done():
                    await self._prefill_ended(verdict)
            return self._begun(decode.result(), intake.blocks)
        except BaseException:
            decode.cancel()
            decode.add_done_callback(_discard)
            self.abandon()
            raise

    def abandon(self) -> None:
        """Nobody wants the KV any more: end the prefill leg and tell both sidecars, in the background."""
        if self._prefill is not None:
            self._prefill.cancel()
        if self.transfer is not None:
            self._services.supervisor.start(self._cancel(self.transfer), "cancel transfer")

    async def record(self) -> TransferRecord | None:
        """What the consumer's sidecar says of the transfer; None when there is nothing to learn."""
        if self.transfer is None:
            return None
        try:
            return await self.transfer.control.transfer(self.transfer.consumer, self.transfer.id)
        except ControlError:
            return None

    def learn_from(self, record: TransferRecord) -> None:
        """Let the end of a transfer count for or against its producer."""
        if self.transfer is None:
            return
        code = record.code or "running"
        metrics = self._services.metrics
        metrics.of_engine(metrics.transfers, self.transfer.prefiller.name, code).inc()
        # Not the prefill leg's 200: KV that cannot cross makes a working engine useless here.
        if code in _PATH_CODES:
            self.transfer.prefiller.sidecar.failed(self._services.clock())
            if code in _WAY_CODES and self.transfer.prefiller.way is not None:
                self.transfer.prefiller.way.failed(self._services.clock())
        elif code == "complete":
            self.transfer.prefiller.sidecar.succeeded(self._services.clock())
            if self.transfer.prefiller.way is not None:
                self.transfer.prefiller.way.succeeded(self._services.clock())

    async def _run_decode(self, intake: Intake, url: URL, account: Account) -> Answer:
        data = intake.body.raw
        if self.transfer is not None and intake.prompt is not None:
            data = self.transfer.decode_body(intake.prompt, intake.kind, intake.body)
        return await self._services.decode.open(url, data, self._headers, account)

    async def _run_prefill(self, transfer: Transfer, intake: Intake) -> ControlError | None:
        prefiller, prompt = transfer.prefiller, intake.prompt
        if prompt is None:
            raise AssertionError("a transfer needs tokens")
        body = transfer.prefill_body(prompt, intake.model.name, intake.kind.cache_salt)
        headers = {"x-request-id": f"prfaas-{transfer.id}", **self._trace_headers}
        started = self._services.clock()
        had_it_to_itself = not prefiller.in_flight and not prefiller.load_tokens
        with prefiller.work(transfer.uncached_tokens):
            try:
                await transfer.control.prefill(
                    transfer.producer, body, headers, transfer.deadline_seconds + _RESPONSE_SLACK_SECONDS
                )
            except ControlError as error:
                self.prefill_code = error.code
                self._count_leg(prefiller, error.code)
                if error.blames_peer:
                    prefiller.sidecar.failed(self._services.clock())
                if error.blames_way and prefiller.way is not None:
                    # All of the region, until it is heard again: the next request has no time to lose there.
                    prefiller.way.failed(self._services.clock())
                    prefiller.way.reachable = False
                return error
        self.prefill_code = "OK"
        self._count_leg(prefiller, "OK")
        if had_it_to_itself:
            seconds = self._services.clock() - started
            self._services.scheduler.paces.observe(prefiller.kind, transfer.uncached_tokens, seconds)
        prefiller.index.add(prompt.blocks)
        return None

    def _count_leg(self, prefiller: Prefiller, code: str) -> None:
        metrics = self._services.metrics
        metrics.of_engine(metrics.prefill_legs, prefiller.name, code).inc()
        if prefiller.region is not None:
            metrics.peer_legs.labels(prefiller.region, code).inc()

    async def _prefill_ended(self, verdict: PrefillVerdict) -> None:
        if self._prefill is None or self.transfer is None:
            return
        error = self._prefill.result()
        if error is None:
            return
        self.landed_units = await self._landed_units(self.transfer)
        if verdict(error, self.landed_units) is Step.RETRY_REMOTE:
            raise RetryRemoteError
        try:
            await self.transfer.control.fail(self.transfer.consumer, self.transfer.id, "PrefillFailed")
        except ControlError as unheard:
            # The engine then waits until its own deadline; the circuit keeps the next request from that.
            if unheard.blames_peer:
                self.decoder.sidecar.failed(self._services.clock())

    async def _landed_units(self, transfer: Transfer) -> int | None:
        """Units on the decode side: 0 only when another transfer would lose nothing."""
        try:
            record = await transfer.control.transfer(transfer.consumer, transfer.id)
        except ControlError:
            return None
        if record is None:
            return 0
        # An ended transfer (the producer's sidecar may have refused it long before the leg's answer): the
        # engine computes already, and a new attempt would throw that away.
        return None if record.ended and record.units_landed == 0 else record.units_landed

    def _begun(self, answer: Answer, blocks: PromptBlocks) -> Answer:
        if answer.status >= 400:
            self.abandon()
            return answer
        self.decoder.engine.succeeded(self._services.clock())
        self.decoder.index.add(blocks)
        if self._prefill is not None and not self._prefill.done():
            self._services.supervisor.start(self._finish_prefill(self._prefill), "finish prefill leg")
        return answer

    async def _finish_prefill(self, prefill: asyncio.Task[ControlError | None]) -> None:
        """A prefill leg is useful for a moment longer: its answer may be on its way over the WAN."""
        grace = self._services.config.timeouts.prefill_grace_seconds
        done, _ = await asyncio.wait({prefill}, timeout=grace)
        if not done:
            prefill.cancel()
            if self.transfer is not None:
                await self._tell_cancelled(self.transfer, self.transfer.producer)

    async def _cancel(self, transfer: Transfer) -> None:
        await asyncio.gather(
            self._tell_cancelled(transfer, transfer.consumer),
            self._tell_cancelled(transfer, transfer.producer),
        )

    async def _tell_cancelled(self, transfer: Transfer, target: ControlTarget) -> None:
        try:
            await transfer.control.cancel(target, transfer.id)
        except ControlError as error:
            # Leases free what a cancel that is not heard would have freed.
            self._services.metrics.ladder_steps.labels("cancel_unheard", error.code).inc()


def _discard(decode: asyncio.Task[Answer]) -> None:
    """Close an answer that came too late for anybody to read."""
    if not decode.cancelled() and decode.exception() is None:
        decode.result().close()


def blame(decoder: Decoder, error: DecodeError, now: float) -> None:
    """Let a failed decode leg count against its engine."""
    if error.blames_engine:
        decoder.engine.failed(now)
    if error.code in ("PeerUnreachable", "StreamEmpty"):
        # Most likely a restart: its cache is gone.
        decoder.index.forget()
