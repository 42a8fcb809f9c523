"""The demo's course: reference answers, the requests through the gateway, and the same all local."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from prfaas_demo import results
from prfaas_demo.client import Answer, ask, reset_prefix_cache
from prfaas_demo.observer import Transfer
from prfaas_demo.progress import Step, Teller
from prfaas_demo.prompts import Prompt
from prfaas_demo.results import MIB, Request
from prfaas_demo.stage import Stage

CUT_AT_FRACTION = 0.6
ANSWER_CHARACTERS = 100
_WATCH_SECONDS = 0.03
_RECORD_SECONDS = 5.0


@dataclass(eq=False)
class Scenario:
    """One course over one stage."""

    stage: Stage
    session: aiohttp.ClientSession
    teller: Teller
    prompts: tuple[Prompt, ...]
    max_tokens: int
    kv_bytes_per_token: int
    transfers_pay: bool
    references: dict[str, Answer] = field(default_factory=dict)
    cut_text: str = ""

    async def take_references(self) -> None:
        """Each prompt by the decode engine alone, its prefix cache emptied before each."""
        for prompt in self.prompts:
            with self.teller.step(prompt.name) as step:
                await self._reset(step)
                answer = await ask(self.session, self._engine_url, prompt.text, self.max_tokens)
                self.references[prompt.name] = answer
                step.outcome = (
                    f"{answer.prompt_tokens} tokens, first token after {answer.first_token_seconds:.1f} s"
                )

    async def through_the_gateway(self) -> list[Request]:
        """Each prompt through the gateway, which decides where it is prefilled; one of them with the link
        cut."""
        await reset_prefix_cache(self.session, self._engine_url)
        done = []
        for prompt in self.prompts:
            self.teller.line(f"  {prompt.note}", "dim")
            with self.teller.step(prompt.name) as step:
                answer = await self._watched(prompt, step)
                if prompt.cut:
                    # At once: on loopback the cut keeps a sidecar from telling what it knows.
                    await asyncio.to_thread(self.stage.regions.link.restore)
                got = await self._understood(prompt, answer)
                step.outcome = _outcome(got)
                done.append(got)
            self._comment(prompt, got)
            if prompt.cut:
                with self.teller.step("link restored; waiting until the gateway sees the east again"):
                    await self.stage.east_is_healthy()
        return done

    def _comment(self, prompt: Prompt, got: Request) -> None:
        if prompt.cut:
            self.teller.line(f"    {self.cut_text or 'the engine took what it had before the cut'}", "dim")
        self.teller.line(f"    answer: {_shortened(got.text)}", "dim")
        if got.transfer_code is not None and not got.landed_tokens:
            self.teller.line("    the engine computed all of it: waiting for the east did not pay", "dim")
        for problem in self.problems(prompt, got):
            self.teller.line(f"    {problem}", "bold red")

    async def all_local(self) -> list[Request]:
        """The same through a gateway that never prefills remotely, from an empty cache."""
        gateway = await self.stage.start_gateway(remote=False)
        west = self.stage.regions.west
        await reset_prefix_cache(self.session, self._engine_url)
        done = []
        for prompt in self.prompts:
            with self.teller.step(prompt.name) as step:
                url = west.shell_url(west.ports.local_gateway)
                answer = await ask(self.session, url, prompt.text, self.max_tokens)
                got = results.request(prompt, answer, self.references[prompt.name], None, None)
                step.outcome = _outcome(got)
                done.append(got)
        await gateway.stop()
        return done

    def problems(self, prompt: Prompt, got: Request) -> list[str]:
        """What went otherwise than it should."""
        return results.problems(prompt, got, transfers_pay=self.transfers_pay)

    @property
    def _engine_url(self) -> str:
        west = self.stage.regions.west
        return west.shell_url(west.ports.engine)

    async def _reset(self, step: Step) -> None:
        step.update("resetting the prefix cache")
        await reset_prefix_cache(self.session, self._engine_url)
        step.update("waiting for the answer")

    async def _watched(self, prompt: Prompt, step: Step) -> Answer:
        west = self.stage.regions.west
        watch = asyncio.create_task(self._watch(prompt, await self._landed_bytes(), step))
        try:
            return await ask(self.session, west.shell_url(west.ports.gateway), prompt.text, self.max_tokens)
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def _understood(self, prompt: Prompt, answer: Answer) -> Request:
        consumer, producer = await self._records(answer.headers.get("x-prfaas-transfer-id"))
        return results.request(prompt, answer, self.references[prompt.name], consumer, producer)

    async def _watch(self, prompt: Prompt, before: float, step: Step) -> None:
        """Tell how much has landed and, for the request that is there for it, cut the link on the way."""
        expected = self.kv_bytes_per_token * self.references[prompt.name].prompt_tokens
        while True:
            landed = await self._landed_bytes() - before
            if landed > 0:
                step.update(f"{landed / MIB:.0f} MiB of KV have landed")
            if prompt.cut and landed >= CUT_AT_FRACTION * expected:
                await asyncio.to_thread(self.stage.regions.link.cut)
                self.cut_text = f"cut when {landed / MIB:.0f} of {expected / MIB:.0f} MiB had landed"
                step.update(self.cut_text)
                return
            await asyncio.sleep(_WATCH_SECONDS if prompt.cut else 10 * _WATCH_SECONDS)

    async def _landed_bytes(self) -> float:
        west = self.stage.regions.west
        value = await self.stage.observer.metric(
            west.shell_url(west.ports.health), "prfaas_sidecar_kv_bytes_total", {"side": "consumer"}
        )
        return value or 0.0

    async def _records(self, transfer_id: str | None) -> tuple[Transfer | None, Transfer | None]:
        """Both sides' records of a transfer, once the engine has said what it took."""
        if transfer_id is None:
            return None, None
        observer, regions = self.stage.observer, self.stage.regions
        consumer = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECORD_SECONDS):
                while consumer is None or consumer.taken_tokens is None:
                    consumer = await observer.transfer(regions.west, transfer_id)
                    await asyncio.sleep(_WATCH_SECONDS)
        return consumer, await observer.transfer(regions.east, transfer_id)


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= ANSWER_CHARACTERS else words[: ANSWER_CHARACTERS - 1] + "…"


def _outcome(got: Request) -> str:
    text = f"{got.route}, first token after {got.first_token_seconds:.1f} s"
    if got.landed_tokens is not None:
        text += f", {got.landed_tokens} of {got.uncached_tokens} tokens from the east"
    return text + ("" if got.same_tokens else ", TOKENS DIFFER")
