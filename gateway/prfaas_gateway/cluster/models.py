"""Keeps each model's tokenizer that of its engines, and swaps it without touching requests that run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prfaas_gateway.cluster.membership import Desired, DesiredModel
from prfaas_gateway.cluster.tokenizers import Loaded, TokenizerCache, TokenizerError
from prfaas_gateway.control import ControlTarget
from prfaas_gateway.fleet import Decoder
from prfaas_gateway.prompt import PromptMaker
from prfaas_gateway.services import ModelRuntime, Services

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
_SOURCES_AT_ONCE = 3


@dataclass(slots=True)
class _Trouble:
    """Why a model's tokenizer is not there yet."""

    digest: str
    error: TokenizerError
    failures: int
    retry_at: float


class Models:
    """The models' runtimes. ``changed`` is called when one has a new tokenizer."""

    def __init__(self, services: Services, cache: TokenizerCache, changed: Callable[[], None]) -> None:
        self._services = services
        self._cache = cache
        self._changed = changed
        self._wanted: Mapping[str, DesiredModel] = {}
        self._loaded: dict[str, Loaded] = {}
        self._trouble: dict[str, _Trouble] = {}
        self._wake = asyncio.Event()

    def files_in_use(self) -> dict[str, str]:
        """Digest of the files in use, by model."""
        return {name: loaded.digest for name, loaded in self._loaded.items()}

    def apply(self, desired: Desired) -> tuple[Decoder, ...]:
        """Give requests the models that are desired; the decode engines to compare tokenizers with again."""
        self._wanted = desired.models
        for name in [name for name in self._loaded if name not in desired.models]:
            del self._loaded[name]
        for name in list(self._trouble):
            if name not in desired.models or not self._is_missing(desired.models[name]):
                del self._trouble[name]
        known = {runtime.name: runtime for runtime in self._services.runtimes()}
        models: dict[str, ModelRuntime] = {}
        swapped: list[str] = []
        for wanted in desired.models.values():
            before = known.get(wanted.name)
            runtime = self._runtime(wanted, before)
            if runtime.files and (before is None or before.files != runtime.files):
                swapped.append(wanted.name)
            # A model's own name wins over an adapter's of another model.
            models |= {name: runtime for name in runtime.adapters if name not in desired.models}
            models[wanted.name] = runtime
        self._services.models = models
        if any(self._is_missing(wanted) for wanted in desired.models.values()):
            self._wake.set()
        return self._compare_again(swapped)

    async def load_forever(self) -> None:
        """Fetch and load what is wanted and not there, one at a time. Ends by being cancelled."""
        while True:
            pause = self._seconds_to_retry()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                # It is time for another attempt.
                pass
            self._wake.clear()
            for wanted in list(self._wanted.values()):
                if self._is_missing(wanted) and self._is_due(wanted):
                    await self._load(wanted)

    def trouble(self) -> dict[str, Any]:
        """By model, why its tokenizer is missing."""
        return {
            name: {"code": trouble.error.code, "message": str(trouble.error), "failures": trouble.failures}
            for name, trouble in self._trouble.items()
        }

    def _runtime(self, wanted: DesiredModel, before: ModelRuntime | None) -> ModelRuntime:
        loaded = self._loaded.get(wanted.name)
        told = wanted.max_model_tokens is not None
        runtime = ModelRuntime(
            name=wanted.name,
            # With all of its engines away a model stays what they last told.
            adapters=wanted.adapters if told or before is None else before.adapters,
            block_tokens=wanted.block_tokens if told or before is None else before.block_tokens,
            max_model_tokens=wanted.max_model_tokens if told or before is None else before.max_model_tokens,
            threshold_tokens=wanted.threshold_tokens,
            maker=None,
            files=loaded.digest if loaded else "",
        )
        if before is not None and replace(before, maker=None) == runtime:
            return before
        if loaded is None:
            return runtime
        maker = PromptMaker(loaded.tokenizer, loaded.template, runtime.threshold_tokens, runtime.block_tokens)
        return replace(runtime, maker=maker)

    def _compare_again(self, swapped: list[str]) -> tuple[Decoder, ...]:
        found = []
        for decoder in self._services.fleet.decoders:
            for name in swapped:
                decoder.tokenizer_agrees.pop(name, None)
            if decoder.open and any(decoder.serves(name) for name in swapped):
                found.append(decoder)
        return tuple(found)

    def _is_missing(self, wanted: DesiredModel) -> bool:
        loaded = self._loaded.get(wanted.name)
        return bool(wanted.files_digest) and (loaded is None or loaded.digest != wanted.files_digest)

    def _is_due(self, wanted: DesiredModel) -> bool:
        trouble = self._trouble.get(wanted.name)
        return (
            trouble is None
            or trouble.digest != wanted.files_digest
            or trouble.retry_at <= self._services.clock()
        )

    def _seconds_to_retry(self) -> float | None:
        waiting = [
            trouble.retry_at
            for name, trouble in self._trouble.items()
            if (wanted := self._wanted.get(name)) is not None and self._is_missing(wanted)
        ]
        return max(0.0, min(waiting) - self._services.clock()) if waiting else None

    async def _load(self, wanted: DesiredModel) -> None:
        services = self._services
        if services.control is None:
            raise AssertionError("a cluster needs a control client")
        try:
            loaded = self._shared(wanted.files_digest) or await self._cache.load(
                services.control, self._sources(wanted), wanted.files, wanted.files_digest
            )
        except TokenizerError as error:
            self._note_trouble(wanted, error)
            return
        self._trouble.pop(wanted.name, None)
        self._loaded[wanted.name] = loaded
        _log.info("tokenizer loaded", extra={"model": wanted.name, "files": wanted.files_digest})
        self._changed()
        try:
            await self._cache.prune({loaded.digest for loaded in self._loaded.values()})
        except OSError as error:
            _log.warning("old tokenizers cannot be removed", extra={"reason": error.strerror})

    def _shared(self, digest: str) -> Loaded | None:
        return next((loaded for loaded in self._loaded.values() if loaded.digest == digest), None)

    def _sources(self, wanted: DesiredModel) -> list[ControlTarget]:
        """A few of those who can give the files: others with each attempt, since some may give nothing."""
        targets = {decoder.uid: decoder.target for decoder in self._services.fleet.decoders}
        known = [target for uid in wanted.sources if (target := targets.get(uid)) is not None]
        trouble = self._trouble.get(wanted.name)
        begin = trouble.failures * _SOURCES_AT_ONCE % len(known) if trouble is not None and known else 0
        return (known[begin:] + known[:begin])[:_SOURCES_AT_ONCE]

    def _note_trouble(self, wanted: DesiredModel, error: TokenizerError) -> None:
        before = self._trouble.get(wanted.name)
        failures = before.failures + 1 if before and before.digest == wanted.files_digest else 1
        wait = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
        self._trouble[wanted.name] = _Trouble(
            wanted.files_digest, error, failures, self._services.clock() + wait
        )
        self._services.metrics.tokenizer_errors.labels(error.code).inc()
        level = logging.ERROR if failures == 1 else logging.DEBUG
        _log.log(
            level,
            "no tokenizer, so the model's prompts stay local",
            extra={"model": wanted.name, "code": error.code, "reason": str(error)},
        )
