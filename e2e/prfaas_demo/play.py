"""One run of the demo from nothing to nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

import prfaas_setup
from prfaas_demo import cpu_shares, engines, keep, layout, results
from prfaas_demo.children import Children
from prfaas_demo.errors import DemoError
from prfaas_demo.interrupts import interruptible, run_interruptible
from prfaas_demo.janitor import Order, janitor
from prfaas_demo.names import MODEL
from prfaas_demo.observer import Observer, observer_tls
from prfaas_demo.progress import Teller
from prfaas_demo.prompts import Prompt, demo_prompts
from prfaas_demo.regions import LinkOptions, Regions, regions
from prfaas_demo.results import Outcome
from prfaas_demo.scenario import Scenario
from prfaas_demo.stage import EnginePair, Software, Stage, new_folder

T = TypeVar("T")
Show = Callable[[Outcome], None]

CORES = len(os.sched_getaffinity(0))
PREFILL_THREADS = min(4, CORES)
DECODE_THREADS = 1
LOGS = ["*.log"]


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        max_tokens: length of each answer.
        scale: factor on the lengths of the long prompts.
        loopback: make no namespaces, even where they could be made.
        keep: leave everything running after the report until Ctrl-C.
    """

    link: LinkOptions
    max_tokens: int = 32
    scale: float = 1.0
    loopback: bool = False
    keep: bool = False


ENGINES = EnginePair(
    prefill=engines.EngineOptions("prefill", chunk_tokens=256, threads=PREFILL_THREADS),
    decode=engines.EngineOptions("decode", chunk_tokens=512, threads=DECODE_THREADS),
)


def play(options: Options, teller: Teller, show: Show) -> Outcome:
    """Bring everything up, go through the course, clear everything away.

    Args:
        show: called with the outcome as soon as there is one; with `keep` everything still runs then.

    Raises:
        DemoError: something did not work; the log files stay.
        SetupError: the engine or the model cannot be made.
        Interruption: a signal came; everything is cleared away.
    """
    software = _software(ENGINES)
    with interruptible():
        folder = new_folder()
        order = Order(
            mark=folder.name,
            control_groups=cpu_shares.possible_folders(folder.name),
            folder=folder,
            logs=LOGS,
        )
        with janitor(order) as cleaner:
            stage_pids: list[int] = []
            with regions(options.link, lambda: stage_pids[0], loopback=options.loopback) as places:
                run = _Run(options, teller, folder, places, software, stage_pids, show, cleaner.look_after)
                try:
                    outcome = run_interruptible(run.course())
                except DemoError as error:
                    cleaner.keep_logs()
                    error.folder = folder
                    raise
                else:
                    if not outcome.passed:
                        cleaner.keep_logs()
                        teller.line(f"The logs of this run stay in {folder}")
                    return outcome
                finally:
                    # Before the namespaces go, so that the parts can end in their own way.
                    cleaner.clear_up()


def _software(pair: EnginePair) -> Software:
    python = prfaas_setup.engine_python()
    return Software(
        engine_python=python,
        engine_variables={
            each.role: prfaas_setup.engine_env(threads=each.threads) for each in (pair.prefill, pair.decode)
        },
        model=prfaas_setup.model_path(MODEL),
    )


@dataclass(eq=False)
class _Run:
    options: Options
    teller: Teller
    folder: Path
    regions: Regions
    software: Software
    stage_pids: list[int]
    show: Show
    look_after: Callable[[int], None]

    async def course(self) -> Outcome:
        credentials = layout.write_credentials(self.folder / "tls", self.regions.east, self.regions.west)
        shares = cpu_shares.claim(self.folder.name)
        children = Children(self.folder, self.folder.name, self.look_after)
        async with aiohttp.ClientSession(read_bufsize=1 << 20) as session, _ended(children):
            stage = Stage(
                folder=self.folder,
                regions=self.regions,
                children=children,
                observer=Observer(session, observer_tls(credentials.observer)),
                shares=shares,
                software=self.software,
                credentials=credentials,
            )
            with self.teller.running():
                facts = self._facts(shares)
                self._introduce(facts)
                self.teller.heading("Starting")
                await stage.start_all(ENGINES, self.teller)
                if stage.producer_sidecar is not None:
                    self.stage_pids.append(stage.producer_sidecar.pid)
                prompts = demo_prompts(self.options.scale)
                scenario = Scenario(
                    stage,
                    session,
                    self.teller,
                    prompts,
                    self.options.max_tokens,
                    kv_bytes_per_token=engines.kv_bytes_per_token(self.software.model),
                    transfers_pay=self.regions.kind == "loopback" or self.options.link == LinkOptions(),
                )
                outcome = await _unless(stage.children.any_died(), self._perform(scenario, facts, prompts))
            self.show(outcome)
            if self.options.keep:
                await _unless(stage.children.any_died(), keep.keep_running(stage, self.teller))
            return outcome

    async def _perform(
        self, scenario: Scenario, facts: dict[str, str], prompts: tuple[Prompt, ...]
    ) -> Outcome:
        self.teller.heading("Reference answers: the decode engine alone, its cache emptied before each")
        await scenario.take_references()
        self.teller.heading("Through the gateway")
        prfaas = await scenario.through_the_gateway()
        self.teller.heading("The same prompts all local, from an empty cache")
        local = await scenario.all_local()
        found = {
            prompt.name: faults
            for prompt, got, alone in zip(prompts, prfaas, local, strict=True)
            if (faults := scenario.problems(prompt, got) + results.local_problems(alone))
        }
        return Outcome(facts, prfaas, local, found, scenario.cut_text)

    def _introduce(self, facts: dict[str, str]) -> None:
        for name, text in facts.items():
            self.teller.line(f"{name}: {text}")

    def _facts(self, shares: cpu_shares.CpuShares) -> dict[str, str]:
        if self.regions.kind == "wan":
            link = self.options.link
            rate = (
                f"{link.rate_bits_per_second / 1e6:g} Mbit/s"
                if link.rate_bits_per_second
                else "no rate limit"
            )
            where = "two network namespaces, joined by an emulated WAN: " + ", ".join(
                [rate, f"{link.rtt_seconds * 1000:g} ms RTT", f"{link.loss_fraction * 100:g} % loss"]
            )
        else:
            where = "loopback"
        return {
            "Regions": "; ".join([where, *self.regions.notes]),
            "Model": f"{MODEL} with its real weights, float32, greedy, {self.options.max_tokens} tokens each",
            "CPU": f"both engines share this machine's {CORES} cores. Better prefill hardware in the east is "
            f"emulated: {PREFILL_THREADS} computing threads there and {DECODE_THREADS} in the west, and "
            f"{shares.describe()}",
            "Policy": f"prompts of more than {layout.THRESHOLD_TOKENS} uncached tokens go to the east",
            "Link security": "TLS 1.3, both sides authenticated; each region has a CA of its own",
        }


@asynccontextmanager
async def _ended(children: Children) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await children.stop_all()


async def _unless(failure: Awaitable[None], work: Awaitable[T]) -> T:
    """The work's result, unless the failure comes first."""
    failing, working = asyncio.ensure_future(failure), asyncio.ensure_future(work)
    try:
        await asyncio.wait({failing, working}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            await failing
        return await working
    finally:
        for task in (failing, working):
            task.cancel()
        await asyncio.gather(failing, working, return_exceptions=True)
