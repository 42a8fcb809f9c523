"""What a request needs from the process that serves it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from yarl import URL

from prfaas_gateway.chat_template import load_chat_template
from prfaas_gateway.config import Config, DecodeEngine, Health, Model, PrefillEngine
from prfaas_gateway.control import ControlClient, ControlTarget
from prfaas_gateway.decode_leg import DecodeClient
from prfaas_gateway.fleet import Decoder, Member, Prefiller
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.prefix_index import PrefixIndex
from prfaas_gateway.prompt import PromptMaker
from prfaas_gateway.streams import Budget
from prfaas_gateway.supervisor import Supervisor
from prfaas_gateway.tls import Credentials
from prfaas_gateway.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelRuntime:
    """A model and what turns its requests into tokens."""

    config: Model
    maker: PromptMaker

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self.config.name


@dataclass(slots=True, eq=False)
class Fleet:
    """All engines, with the addresses of their sidecars."""

    decoders: tuple[Decoder, ...]
    prefillers: tuple[Prefiller, ...]
    targets: dict[str, ControlTarget]
    """By engine name; a decode engine without a sidecar has none."""


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
    in_flight: int = 0
    draining: bool = field(default=False)


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
        runtime = ModelRuntime(
            model, PromptMaker(tokenizer, template, model.threshold_tokens, model.block_tokens)
        )
        models |= dict.fromkeys((model.name, *model.adapters), runtime)
    return models


def build_fleet(config: Config) -> Fleet:
    """Engines as configured, nothing known of them yet."""
    blocks = config.limits.prefix_index_blocks
    engines: list[DecodeEngine | PrefillEngine] = [*config.decode_engines, *config.prefill_engines]
    targets = {
        engine.name: ControlTarget(URL(engine.control), engine.identity)
        for engine in engines
        if engine.control is not None and engine.identity is not None
    }
    decoders = tuple(
        Decoder(engine, _member(config.health), _member(config.health), PrefixIndex(blocks))
        for engine in config.decode_engines
    )
    prefillers = tuple(
        Prefiller(engine, _member(config.health), PrefixIndex(blocks)) for engine in config.prefill_engines
    )
    return Fleet(decoders, prefillers, targets)


def _member(health: Health) -> Member:
    return Member(health)
