"""What a request needs from the process that serves it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from prfaas_gateway.chat_template import load_chat_template
from prfaas_gateway.config import Config, DecodeEngine, Model, PrefillEngine
from prfaas_gateway.control import ControlClient
from prfaas_gateway.decode_leg import DecodeClient
from prfaas_gateway.engine_report import EngineReport
from prfaas_gateway.fleet import Decoder, Member, Prefiller, RoutePolicy, tokenised_from
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.prefix_index import PrefixIndex
from prfaas_gateway.prompt import PromptMaker
from prfaas_gateway.scheduler import Scheduler, assumed_producers
from prfaas_gateway.streams import Budget
from prfaas_gateway.supervisor import Supervisor
from prfaas_gateway.tls import Credentials
from prfaas_gateway.tokenizer import Tokenizer

if TYPE_CHECKING:
    from prfaas_gateway.peering.peers import Peers


@dataclass(frozen=True, slots=True)
class ModelRuntime:
    """A model and what turns its requests into tokens.

    Attributes:
        adapters: further names, whose requests always stay local.
        max_model_tokens: longest prompt; None while no engine has told.
        maker: None while the tokenizer has not come yet.
        files: digest of the tokenizer's files where they come from engines.
        threshold_tokens: prompts up to this length need not be tokenised.
    """

    name: str
    adapters: tuple[str, ...]
    block_tokens: int
    max_model_tokens: int | None
    maker: PromptMaker | None
    files: str = ""
    threshold_tokens: int = 0


@dataclass(slots=True, eq=False)
class Fleet:
    """All engines. The tuples are replaced as a whole, so that whoever iterates sees one state."""

    decoders: tuple[Decoder, ...] = ()
    prefillers: tuple[Prefiller, ...] = ()

    def engines(self) -> tuple[Decoder | Prefiller, ...]:
        """Of both kinds."""
        return (*self.decoders, *self.prefillers)


class ClusterView(Protocol):
    """What pages about health need from whoever follows a cluster."""

    def heard(self, uid: str, report: EngineReport) -> None:
        """A pod's sidecar has told about its engine."""

    def lost(self, uid: str) -> None:
        """A pod's sidecar does not answer."""

    def why_not_ready(self) -> str | None:
        """Why this gateway cannot know where to send requests, or None."""

    def sources(self) -> dict[str, Any]:
        """Where what is believed comes from, and how old it is."""

    def observe(self, metrics: Metrics) -> None:
        """Bring gauges up to date."""

    def status(self) -> dict[str, Any]:
        """What is believed of the cluster, for people."""


@dataclass(slots=True, eq=False)
class Services:
    """Everything with a lifetime longer than a request's."""

    config: Config
    models: dict[str, ModelRuntime]
    """By model and adapter name."""
    fleet: Fleet
    decode: DecodeClient
    credentials: Credentials | None
    control: ControlClient | None
    supervisor: Supervisor
    metrics: Metrics
    threads: ThreadPoolExecutor
    budget: Budget
    clock: Callable[[], float]
    scheduler: Scheduler
    wall_clock: Callable[[], float] = time.time
    cluster: ClusterView | None = None
    peers: Peers | None = None
    """Other regions; only in a cluster."""
    to_probe: dict[str, Decoder | Prefiller] = field(default_factory=dict)
    """By uid of the pod: of whom nothing recent is known; ``probe_now`` is set with it."""
    probe_now: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    stopping: bool = False
    """Not ready any more, but still serving, until nobody sends requests here."""
    draining: bool = False

    def runtimes(self) -> list[ModelRuntime]:
        """Every model once, whatever its number of names."""
        return list({runtime.name: runtime for runtime in self.models.values()}.values())

    def new_decoder(self, engine: DecodeEngine) -> Decoder:
        """A decode engine of which nothing is known yet."""
        health = self.config.health
        return Decoder(engine, Member(health), Member(health), self._index())

    def new_prefiller(self, engine: PrefillEngine) -> Prefiller:
        """A prefill engine of which nothing is known yet."""
        return Prefiller(engine, Member(self.config.health), self._index())

    def _index(self) -> PrefixIndex:
        return PrefixIndex(self.config.limits.prefix_index_blocks, self.scheduler.blocks)


def load_models(config: Config) -> dict[str, ModelRuntime]:
    """Tokenizers and templates of all models, by every name that they answer to.

    Raises:
        OSError, ValueError, jinja2.TemplateSyntaxError: a file cannot be used.
    """
    models: dict[str, ModelRuntime] = {}
    for model in config.models:
        template = None
        if model.render_chat:
            template = load_chat_template(
                model.tokenizer, model.chat_template, model.chat_template_kwargs, model.content_format
            )
        tokenizer = Tokenizer(model.tokenizer / "tokenizer.json")
        needed = tokenised_from(model.threshold_tokens, adaptive=model.adaptive)
        maker = PromptMaker(tokenizer, template, needed, model.block_tokens)
        runtime = ModelRuntime(model.name, model.adapters, model.block_tokens, model.max_model_tokens, maker)
        models |= dict.fromkeys((model.name, *model.adapters), runtime)
    return models


def static_policy(model: Model) -> RoutePolicy:
    """What a static configuration says of a model's prompts."""
    return RoutePolicy(
        threshold_tokens=model.threshold_tokens,
        name=model.route or model.name,
        mode=model.mode,
        canary_percent=model.canary_percent,
        adaptive=model.adaptive,
        ttft_seconds=model.ttft_seconds,
        assumed=tuple(producer for pool in model.assumed_pools for producer in assumed_producers(pool)),
    )


def static_fleet(services: Services) -> Fleet:
    """Engines as configured, nothing known of them yet."""
    config = services.config
    policies = {model.name: static_policy(model) for model in config.models}
    decoders = [services.new_decoder(engine) for engine in config.decode_engines]
    for decoder in decoders:
        decoder.routes = {name: policy for name, policy in policies.items() if decoder.serves(name)}
    return Fleet(tuple(decoders), tuple(services.new_prefiller(engine) for engine in config.prefill_engines))
