"""From bytes on a socket to a request that can be routed: read, parse, classify, prepare."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from prfaas.routing import Reason
from prfaas.scheduling import SloClass
from prfaas_gateway.access_log import AccessRecord
from prfaas_gateway.body import Body, read_body, too_large
from prfaas_gateway.classify import Endpoint, Kind, classify
from prfaas_gateway.errors import GatewayError, bad_request, unavailable
from prfaas_gateway.prefix_index import NO_BLOCKS, Matches, PromptBlocks, Scope
from prfaas_gateway.prompt import Prepared, PreparedPrompt, PromptMaker, ShortPrompt, Unrenderable
from prfaas_gateway.services import ModelRuntime, Services
from prfaas_gateway.streams import Account, TooMuchError, read_all

_BYTES_PER_TOKEN = 3
"""A little less than text has, so that its length is not taken for less."""

_INLINE_BYTES = 4096
"""A body up to this size is prepared in the event loop: handing it to a thread costs more."""


@dataclass(frozen=True, slots=True)
class Intake:
    """A request that has been understood as far as routing needs.

    Attributes:
        prepared: the prompt, or None when nobody needs its tokens.
        stays_local: why it is never remote, or None.
        matches: what engines are believed to hold of it.
        tenant, slo: whose it is, and of which class.
    """

    kind: Kind
    body: Body
    model: ModelRuntime
    prepared: Prepared | None
    stays_local: Reason | None
    matches: Matches
    tenant: str
    slo: SloClass

    @property
    def prompt(self) -> PreparedPrompt | None:
        """The prompt if its tokens are known."""
        return self.prepared if isinstance(self.prepared, PreparedPrompt) else None

    @property
    def expected_tokens(self) -> int:
        """Its length, an upper bound of it, or by its bytes when nobody needed its tokens."""
        if isinstance(self.prepared, PreparedPrompt):
            return self.prepared.tokens
        if isinstance(self.prepared, ShortPrompt):
            return self.prepared.most_tokens
        return len(self.body.raw) // _BYTES_PER_TOKEN

    @property
    def blocks(self) -> PromptBlocks:
        """Of the prompt, if its tokens are known."""
        return self.prompt.blocks if self.prompt else NO_BLOCKS


async def take_in(
    services: Services, request: web.Request, endpoint: Endpoint, account: Account, record: AccessRecord
) -> Intake:
    """Read and understand a request.

    Raises:
        GatewayError: it cannot be served, with the answer for the client.
    """
    raw = await _read(services, request, account)
    record.request_bytes = len(raw)
    body = read_body(raw)
    record.control_fields_removed = len(body.removed)
    if body.removed:
        services.metrics.control_fields_removed.inc()
    kind = classify(endpoint, body.fields)
    record.stream = kind.stream
    model = _model(services, kind)
    record.model = model.name
    stays_local = kind.stays_local
    if stays_local is None and kind.model in model.adapters:
        stays_local = Reason.ADAPTER
    prepared = None
    if stays_local is None and _tokens_matter(services, model):
        if model.maker is None:
            stays_local = Reason.TOKENIZER_PENDING
        else:
            prepared = await _prepare(services, request, kind, body, model.name, model.maker, record)
        if isinstance(prepared, Unrenderable):
            stays_local = Reason.RENDERING
    blocks = prepared.blocks if isinstance(prepared, PreparedPrompt) else NO_BLOCKS
    config = services.config
    intake = Intake(
        kind,
        body.without("prompt", "messages"),
        model,
        prepared,
        stays_local,
        Matches(blocks),
        _header(request, config.tenant_header),
        services.scheduler.slo_class(_header(request, config.slo.header)),
    )
    if intake.prompt is not None:
        record.prompt_tokens = intake.prompt.tokens
        _check_length(intake.prompt.tokens, model)
    return intake


async def _read(services: Services, request: web.Request, account: Account) -> bytes:
    limit = services.config.limits.max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(services.config.timeouts.body_seconds):
            return await read_all(request.content, limit, account)
    except TimeoutError as error:
        raise GatewayError(
            408, "BodyTooSlow", "the request body did not come in time", retryable=True, oversized=True
        ) from error
    except TooMuchError as error:
        if services.budget.used_bytes + limit > services.budget.total_bytes and "requests" in str(error):
            busy = unavailable("Overloaded", "the gateway holds as many request bodies as it may; try again")
            busy.oversized = True
            raise busy from error
        raise too_large(limit) from error
    except web.RequestPayloadError as error:
        raise bad_request("InvalidBody", "the request body is broken") from error


def _model(services: Services, kind: Kind) -> ModelRuntime:
    if kind.model is None:
        runtimes = services.runtimes()
        if len(runtimes) == 1:
            return runtimes[0]
        raise bad_request("ModelMissing", "the request must name a model", "model")
    model = services.models.get(kind.model)
    if model is None:
        raise GatewayError(
            404,
            "model_not_found",
            f"the model {kind.model[:200]!r} does not exist here; see /v1/models",
            param="model",
        )
    return model


def _tokens_matter(services: Services, model: ModelRuntime) -> bool:
    """Whether tokens can change anything: where to prefill, or which of several engines has the prefix."""
    remote = (
        services.config.remote_prefill
        and services.control is not None
        and any(engine.serves(model.name) for engine in services.fleet.prefillers)
    )
    shadow = any(engine.route(model.name).assumed for engine in services.fleet.decoders)
    return remote or shadow or sum(engine.serves(model.name) for engine in services.fleet.decoders) > 1


async def _prepare(
    services: Services,
    request: web.Request,
    kind: Kind,
    body: Body,
    model: str,
    maker: PromptMaker,
    record: AccessRecord,
) -> Prepared:
    scope = Scope(model, "", kind.cache_salt, _header(request, services.config.tenant_header))
    started = services.clock()
    try:
        if len(body.raw) <= _INLINE_BYTES:
            return maker.prepare(kind, body.fields, scope)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(services.config.timeouts.prepare_seconds):
            return await loop.run_in_executor(services.threads, maker.prepare, kind, body.fields, scope)
    except TimeoutError:
        return Unrenderable("there was no time to tokenise the prompt")
    finally:
        record.prepare_seconds = services.clock() - started
        services.metrics.prepare_seconds.observe(record.prepare_seconds)


def _header(request: web.Request, name: str | None) -> str:
    return request.headers.get(name, "") if name else ""


def _check_length(tokens: int, model: ModelRuntime) -> None:
    limit = model.max_model_tokens
    if limit is not None and tokens > limit:
        raise bad_request(
            "context_length_exceeded",
            f"This model's maximum context length is {limit} tokens, but the prompt has {tokens} tokens. "
            "Please shorten the prompt.",
            "messages",
        )
