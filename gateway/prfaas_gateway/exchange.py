"""One client request from arrival to the last byte: route it, climb down the ladder, relay the answer."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from prfaas.routing import Decision, Reason, Route
from prfaas.scheduling import Outcome
from prfaas_gateway import doorkeeper
from prfaas_gateway.access_log import AccessRecord
from prfaas_gateway.attempt import Attempt, PrefillVerdict, RetryRemoteError, Transfer, blame
from prfaas_gateway.body import answer_headers, forwarded_headers
from prfaas_gateway.classify import Endpoint
from prfaas_gateway.control import ControlError, TransferRecord
from prfaas_gateway.decode_leg import Answer, DecodeError, StreamBrokenError
from prfaas_gateway.errors import GatewayError, unavailable
from prfaas_gateway.fleet import Decoder, Pick
from prfaas_gateway.intake import Intake, take_in
from prfaas_gateway.ladder import Bounds, Progress, Step, after_decode_failure, after_prefill_failure
from prfaas_gateway.placement import Placement, other_prefillers, place
from prfaas_gateway.services import Services
from prfaas_gateway.streams import Account
from prfaas_gateway.usage import mentions_cached_tokens, needs_rewrite, rewrite_body, rewrite_events

_TRACE_HEADERS = ("traceparent", "tracestate")
_REQUEST_ID_HEADER = "x-request-id"


class Exchange:
    """Serves one request. ``record`` says afterwards how it went."""

    def __init__(self, services: Services, request: web.Request, endpoint: Endpoint, started: float) -> None:
        self.record = AccessRecord(request.method, endpoint.value)
        self._services = services
        self._request = request
        self._endpoint = endpoint
        self._started = started
        # Every gateway puts a request into the same canary share, if it comes with an id.
        self._request_id = request.headers.get(_REQUEST_ID_HEADER) or secrets.token_hex(16)
        self._decision = Decision(Route.LOCAL, Reason.UNDER_THRESHOLD)
        self._tried_decoders: frozenset[str] = frozenset()
        self._tried_prefillers: frozenset[str] = frozenset()
        self._matched_tokens = 0
        self._intake: Intake | None = None
        self._first_placement: Placement | None = None
        self._route_name = ""
        self._objective_seconds: float | None = None
        self._placed_at = started
        self._attempt: Attempt | None = None
        self._transfer_record: TransferRecord | None = None
        self.response: web.StreamResponse | None = None

    async def serve(self, account: Account) -> web.StreamResponse:
        """Answer the request.

        Raises:
            GatewayError: nothing has been sent yet and this is to be the answer.
        """
        with ExitStack() as held:
            answer, attempt = await self._begin(account, held)
            if answer.events:
                # Nothing of the request is needed any more, and a stream may last for an hour.
                account.release()
            try:
                return await self._relay(answer, attempt)
            finally:
                answer.close()

    async def conclude(self) -> None:
        """Close the books of a transfer and write the access log line. Runs after the answer."""
        attempt = self._attempt
        if attempt is not None and attempt.transfer is not None:
            record = self._transfer_record or await attempt.record()
            if record is not None:
                attempt.learn_from(record)
                self.record.taken_tokens = record.taken_tokens
                self.record.transfer_code = record.code
            self.record.prefill_code = attempt.prefill_code or self.record.prefill_code
        self._count_tokens()
        self.record.write()

    def abandon(self) -> None:
        """The client has gone, or the answer broke: free what both sides hold."""
        if self._attempt is not None:
            self._attempt.abandon()

    def close(self, status: int, code: str) -> None:
        """Note the outcome and count it."""
        record, metrics = self.record, self._services.metrics
        record.status, record.code = status, code
        record.route, record.reason = self._decision.route.value, self._decision.reason.value
        record.total_seconds = self._age()
        self._keep_books()
        model = record.model or ""
        metrics.requests.labels(model, record.route, record.reason, code).inc()
        metrics.request_seconds.labels(model, record.route).observe(record.total_seconds)
        if self._decision.would_be is not None:
            record.would_be = self._decision.would_be.value
            metrics.observed.labels(model, record.would_be, record.reason).inc()

    async def _begin(self, account: Account, held: ExitStack) -> tuple[Answer, Attempt]:
        """An answer that has begun, from one decode engine or the next; ``held`` gets what it occupies."""
        intake = await take_in(self._services, self._request, self._endpoint, account, self.record)
        self._intake = intake
        waited_from = self._services.clock()
        pick = await doorkeeper.turn(
            self._services, intake, self._request_id, self._age(), self._tried_prefillers
        )
        self.record.waited_seconds = self._services.clock() - waited_from
        room = self._services.scheduler.room
        while pick is not None:
            with ExitStack() as trying:
                trying.callback(room.wake, intake.model.name)
                trying.enter_context(pick.engine.request())
                try:
                    begun = await self._answer(intake, pick, account)
                except DecodeError as error:
                    pick = self._after_decode_failure(intake, pick.engine, error)
                    continue
                held.push(trying.pop_all())
                return begun
        raise unavailable("DecodeBusy", "every decode engine of this model is busy; try again")

    async def _answer(self, intake: Intake, pick: Pick[Decoder], account: Account) -> tuple[Answer, Attempt]:
        """The decode engine's answer, over as many transfers as the ladder allows."""
        decoder = pick.engine
        self.record.decode_attempts += 1
        self.record.decode_engine = decoder.name
        url = URL(decoder.config.url + self._request.rel_url.raw_path_qs, encoded=True)
        config = self._services.config
        headers = forwarded_headers(
            list(self._request.headers.items()), drop=(config.tenant_header, config.slo.header)
        )
        while True:
            attempt = self._new_attempt(intake, pick, headers)
            started, alone = self._services.clock(), not decoder.prefill_tokens
            tokens = doorkeeper.local_tokens(intake, pick)
            try:
                with doorkeeper.prefilling(
                    self._services, intake, decoder, tokens, local=attempt.transfer is None
                ):
                    async with asyncio.timeout(self._seconds_to_first_byte(intake)):
                        verdict = self._on_prefill_failure(intake, decoder)
                        answer = await attempt.first_byte(intake, url, account, verdict)
            except TimeoutError as error:
                decoder.engine.failed(self._services.clock())
                raise unavailable(
                    "DeadlineExceeded", "the engine did not begin its answer in time"
                ) from error
            except RetryRemoteError as error:
                if not decoder.open:
                    # It began to drain meanwhile: a new transfer to it would be a new request.
                    raise DecodeError("Draining", blames_engine=False) from error
                continue
            except DecodeError as error:
                blame(decoder, error, self._services.clock())
                raise
            self._first_byte()
            if attempt.transfer is None and alone and answer.events and intake.prompt is not None:
                self._services.scheduler.paces.observe(decoder.kind, tokens, self._services.clock() - started)
            return answer, attempt

    def _new_attempt(self, intake: Intake, pick: Pick[Decoder], headers: list[tuple[str, str]]) -> Attempt:
        transfer = self._plan(intake, pick)
        if transfer is not None:
            self.record.remote_attempts += 1
            self.record.transfer_id = transfer.id
            self.record.prefill_engine = transfer.prefiller.name
            self._tried_prefillers |= {transfer.prefiller.name}
        trace = {name: value for name in _TRACE_HEADERS if (value := self._request.headers.get(name))}
        self._attempt = Attempt(self._services, pick.engine, transfer, headers, trace)
        return self._attempt

    def _plan(self, intake: Intake, pick: Pick[Decoder]) -> Transfer | None:
        services = self._services
        placement = place(services, intake, pick, self._tried_prefillers, self._request_id, self._age())
        self._note(placement, pick.engine, intake)
        self._matched_tokens = pick.matched_blocks * intake.model.block_tokens
        if intake.prompt is not None:
            self.record.uncached_tokens = placement.prompt.uncached_tokens
        chosen, self._decision = placement.prefiller, placement.decision
        if self.record.remote_attempts and chosen is None:
            # Remote was tried; that it could not be tried again is not the reason worth reporting.
            self._decision = Decision(Route.LOCAL, Reason.PREFILL_FAILED)
        if chosen is None:
            return None
        # KV that the decode engine holds is not computed either: the consumer asks only for the rest.
        matched = max(chosen.matched_blocks, pick.matched_blocks)
        return Transfer.plan(
            services, intake, pick.engine, chosen.engine, matched, placement.first_kv_seconds
        )

    def _note(self, placement: Placement, decoder: Decoder, intake: Intake) -> None:
        """Remember what was first predicted: retries belong to what came of it."""
        if self._first_placement is not None:
            return
        policy = decoder.route(intake.model.name)
        self._first_placement, self._route_name = placement, policy.name
        self._placed_at = self._services.clock()
        slo = intake.slo.ttft_seconds
        self._objective_seconds = slo if slo is not None else policy.ttft_seconds
        self.record.predicted_local_seconds = placement.local_seconds
        if placement.choice is not None:
            self.record.predicted_remote_seconds = placement.choice.remote_seconds

    def _keep_books(self) -> None:
        """Tell the route's ledger what came of the request."""
        placement, intake = self._first_placement, self._intake
        if placement is None or intake is None or not self._route_name or self.record.client_gone:
            return
        first, limit = self.record.first_byte_seconds, self._objective_seconds
        late = None
        if limit is not None and self.record.status >= 500:
            late = True
        elif limit is not None and first is not None and intake.kind.stream:
            late = first > limit
        decision = placement.decision
        now = self._services.clock()
        waited = self._placed_at - self._started
        self._services.scheduler.observations.of(self._route_name, now).count(
            Outcome(
                uncached_tokens=placement.prompt.uncached_tokens,
                worth_it=Route.REMOTE in (decision.route, decision.would_be),
                remote=decision.route is Route.REMOTE,
                local_seconds=placement.local_seconds,
                remote_seconds=placement.choice.remote_seconds if placement.choice is not None else None,
                local_compute_seconds=placement.local_compute_seconds,
                remote_compute_seconds=placement.remote_compute_seconds,
                first_token_seconds=first - waited if first is not None and intake.kind.stream else None,
                late=late,
            ),
            now,
        )

    def _on_prefill_failure(self, intake: Intake, decoder: Decoder) -> PrefillVerdict:
        def verdict(error: ControlError, landed_units: int | None) -> Step:
            services = self._services
            self.record.prefill_code = error.code
            others = other_prefillers(services, intake, decoder, self._tried_prefillers)
            if not decoder.open and not self._may_move(intake, decoder):
                # It has begun to drain: another transfer to it would be a new request, and this one is there.
                others = []
            step = after_prefill_failure(
                self._bounds(),
                self._progress(),
                landed_units=landed_units,
                another_prefill_engine=bool(others),
                retryable=error.retryable,
            )
            if step is Step.LOCAL_PREFILL:
                route = Route.REMOTE if landed_units else Route.LOCAL
                self._decision = Decision(route, Reason.PREFILL_FAILED)
            services.metrics.ladder_steps.labels(step.value, error.code).inc()
            return step

        return verdict

    def _may_move(self, intake: Intake, decoder: Decoder) -> bool:
        """Whether another decode engine could have the request instead."""
        other = self._pick_decoder(intake, self._tried_decoders | {decoder.name})
        step = after_decode_failure(self._bounds(), self._progress(), another_decode_engine=other is not None)
        return step is Step.RETRY_DECODE

    def _after_decode_failure(
        self, intake: Intake, decoder: Decoder, error: DecodeError
    ) -> Pick[Decoder] | None:
        self._tried_decoders |= {decoder.name}
        pick = self._pick_decoder(intake, self._tried_decoders)
        step = after_decode_failure(self._bounds(), self._progress(), another_decode_engine=pick is not None)
        self._services.metrics.ladder_steps.labels(step.value, error.code).inc()
        if step is Step.RETRY_DECODE:
            # The transfer failed with its consumer, not with its producer.
            self._tried_prefillers = frozenset()
            return pick
        self._decision = Decision(self._decision.route, Reason.DECODE_FAILED)
        seconds = error.retry_after if error.retry_after and error.retry_after.isdigit() else "1"
        busy = error.status in (429, 503)
        raise unavailable(
            "DecodeBusy" if busy else "DecodeFailed",
            "the decode engine is busy; try again"
            if busy
            else "the decode engine could not answer; try again",
            min(int(seconds), 3600),
        ) from error

    def _pick_decoder(self, intake: Intake, tried: frozenset[str]) -> Pick[Decoder] | None:
        services = self._services
        return doorkeeper.pick(services, intake, tried)

    async def _relay(self, answer: Answer, attempt: Attempt) -> web.StreamResponse:
        headers = CIMultiDict(answer_headers(answer.headers))
        headers["Server"] = "prfaas-gateway"
        headers.update(self.route_headers())
        if not answer.events:
            body = answer.first
            if attempt.transfer is not None and needs_rewrite(body):
                body = rewrite_body(body, await self._taken_tokens(attempt, body))
            self.record.response_bytes = len(body)
            return web.Response(status=answer.status, headers=headers, body=body)
        response = self.response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(self._request)
        try:
            async with asyncio.timeout(self._services.config.timeouts.request_seconds - self._age()):
                await self._send(response, answer.first, attempt)
                async for whole in answer.rest():
                    await self._send(response, whole, attempt)
        except StreamBrokenError as error:
            await self._break_off(response, "StreamBroken", f"{error}; the answer is incomplete")
        except TimeoutError:
            await self._break_off(response, "DeadlineExceeded", "the answer took too long and is incomplete")
        await response.write_eof()
        return response

    async def _send(self, response: web.StreamResponse, whole: bytes, attempt: Attempt) -> None:
        if attempt.transfer is not None and needs_rewrite(whole):
            whole = rewrite_events(whole, await self._taken_tokens(attempt, whole))
        await self._write(response, whole)

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        self.record.response_bytes += len(data)
        try:
            async with asyncio.timeout(self._services.config.timeouts.client_write_seconds):
                await response.write(data)
        except TimeoutError as error:
            raise ConnectionResetError("the client does not read its answer") from error

    async def _break_off(self, response: web.StreamResponse, code: str, message: str) -> None:
        self.record.code = code
        self.abandon()
        await self._write(response, GatewayError(503, code, message, retryable=True).event())

    async def _taken_tokens(self, attempt: Attempt, data: bytes) -> int:
        """Tokens that came by transfer, from whoever knows: the consumer's sidecar, once."""
        if not mentions_cached_tokens(data):
            return 0
        if self._transfer_record is None or self._transfer_record.taken_tokens is None:
            self._transfer_record = await attempt.record()
        record = self._transfer_record
        if record is not None and record.taken_tokens is not None:
            return record.taken_tokens
        # Nobody says; what was not believed to be here before counts as transferred.
        return self.record.uncached_tokens or 0

    def route_headers(self) -> dict[str, str]:
        """How the request was routed, for the client, unless that is switched off."""
        if not self._services.config.response_headers:
            return {}
        headers = {
            "x-prfaas-route": self._decision.route.value,
            "x-prfaas-reason": self._decision.reason.value,
        }
        if self._decision.would_be is not None:
            headers["x-prfaas-would-be"] = self._decision.would_be.value
        if self.record.transfer_id is not None:
            headers["x-prfaas-transfer-id"] = self.record.transfer_id
        return headers

    def _first_byte(self) -> None:
        self.record.first_byte_seconds = self._age()
        self._services.metrics.first_token_seconds.labels(
            self.record.model or "", self._decision.route.value
        ).observe(self.record.first_byte_seconds)

    def _seconds_to_first_byte(self, intake: Intake) -> float:
        timeouts = self._services.config.timeouts
        # The first byte of an answer that is no stream comes when all of it has been generated.
        limit = timeouts.first_byte_seconds if intake.kind.stream else timeouts.request_seconds
        return max(0.0, limit - self._age())

    def _bounds(self) -> Bounds:
        config = self._services.config
        return Bounds(
            config.limits.remote_attempts, config.limits.decode_attempts, config.timeouts.retry_within_seconds
        )

    def _progress(self) -> Progress:
        return Progress(self.record.remote_attempts, self.record.decode_attempts, self._age())

    def _age(self) -> float:
        return self._services.clock() - self._started

    def _count_tokens(self) -> None:
        record = self.record
        if record.prompt_tokens is None or record.model is None or record.first_byte_seconds is None:
            return
        taken = min(record.taken_tokens or 0, record.prompt_tokens)
        cached = max(0, min(self._matched_tokens, record.prompt_tokens - taken))
        tokens = self._services.metrics.prompt_tokens
        tokens.labels(record.model, "taken").inc(taken)
        tokens.labels(record.model, "cached").inc(cached)
        tokens.labels(record.model, "computed").inc(record.prompt_tokens - taken - cached)
