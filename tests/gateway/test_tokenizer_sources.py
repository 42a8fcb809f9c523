"""Where a model's tokenizer comes from, when pods that could give it are silent or lie."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prfaas_gateway.cluster import tokenizers
from prfaas_gateway.cluster.living import apply
from prfaas_gateway.cluster.membership import Desired, desired_fleet
from prfaas_gateway.cluster.models import Models
from prfaas_gateway.cluster.policy import pools_of
from prfaas_gateway.cluster.tokenizers import Loaded, TokenizerCache, TokenizerError
from prfaas_gateway.control import ControlTarget
from prfaas_gateway.engine_report import ModelFile
from tests.gateway.cluster_values import pod, report, snapshot
from tests.gateway.test_living_fleet import bare_services
from tests.gateway.tokenizers_for_tests import byte_tokenizer
from tests.helpers import eventually_async

PODS = [pod(f"a-{number}", ip=f"192.0.2.{number}") for number in range(9)]


class SilentSidecars:
    """Answer, and then send nothing."""

    def __init__(self) -> None:
        self.asked: list[ControlTarget] = []

    async def model_file(self, target: ControlTarget, *_: Any) -> None:
        self.asked.append(target)
        await asyncio.Event().wait()


class NoFiles:
    """A cache that gets none, and notes whom it was to ask."""

    def __init__(self) -> None:
        self.attempts: list[list[str]] = []
        self.loaded: Loaded | None = None

    async def load(self, _: Any, sources: Sequence[ControlTarget], *__: Any) -> Loaded:
        self.attempts.append([str(source.url.host) for source in sources])
        if self.loaded is not None:
            return self.loaded
        raise TokenizerError("PeerSilent", "nobody gives them")

    async def prune(self, _: Any) -> None:
        """Nothing is kept."""


def has_been_asked(cache: NoFiles, times: int) -> bool:
    """Whether so many attempts have been made."""
    return len(cache.attempts) == times


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    services = bare_services(tmp_path)
    # The clock is the test's, so that an attempt is due when the test says so.
    now = [0.0]
    services.clock = lambda: now[0]
    services.control = object()  # type: ignore[assignment]
    services.models = {}
    cache = NoFiles()
    models = Models(services, cache, lambda: None)  # type: ignore[arg-type]
    loading = asyncio.create_task(models.load_forever())

    def desire(files: str | None) -> None:
        desired = Desired()
        if files is not None:
            told = dict.fromkeys((each.uid for each in PODS), report(files))
            desired = desired_fleet(pools_of(snapshot()), PODS, told)
        apply(services, desired)
        models.apply(desired)

    def later() -> None:
        now[0] += 1000

    yield models, cache, desire, later
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    services.control = None
    services.supervisor.dropped = 0
    await services.decode.close()


World = tuple[Models, NoFiles, Callable[[str | None], None], Callable[[], None]]


async def test_pods_that_give_nothing_are_asked_in_turn_and_few_at_a_time(world: World) -> None:
    cache, desire, later = world[1:]
    for attempts in range(1, 4):
        desire("files")
        await eventually_async(functools.partial(has_been_asked, cache, attempts))
        later()
    assert [len(attempt) for attempt in cache.attempts] == [3, 3, 3]
    assert len({source for attempt in cache.attempts for source in attempt}) == 9


@pytest.mark.parametrize("next_files", [None, "others"], ids=["model-gone", "loaded-since"])
async def test_trouble_that_is_over_is_not_shown(world: World, next_files: str | None) -> None:
    models, cache, desire, _ = world
    desire("files")
    await eventually_async(lambda: set(models.trouble()) == {"chat"})
    cache.loaded = Loaded(report("others").files_digest, byte_tokenizer(), None)  # type: ignore[arg-type]
    desire(next_files)
    await eventually_async(lambda: models.trouble() == {})


async def test_files_that_are_wanted_no_more_are_no_trouble(world: World) -> None:
    models, cache, desire, _ = world
    cache.loaded = Loaded(report("good").files_digest, byte_tokenizer(), None)  # type: ignore[arg-type]
    desire("good")
    await eventually_async(lambda: models.files_in_use() == {"chat": report("good").files_digest})
    cache.loaded = None
    desire("bad")
    await eventually_async(lambda: set(models.trouble()) == {"chat"})
    # Rolled back: what is loaded is what is wanted.
    desire("good")
    assert models.trouble() == {}


async def test_a_silent_sidecar_has_one_deadline_for_all_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "SOURCE_SECONDS", 0.05)
    control = SilentSidecars()
    targets = [ControlTarget(f"https://192.0.2.{n}:7401", "spiffe://x") for n in range(2)]  # type: ignore[arg-type]
    files = [ModelFile(name, 1, "0" * 64) for name in ("tokenizer.json", "tokenizer_config.json")]
    with pytest.raises(TokenizerError) as caught:
        async with asyncio.timeout(5):
            await TokenizerCache(tmp_path, 1).load(control, targets, files, "d")  # type: ignore[arg-type]
    assert caught.value.code == "PeerSilent"
    assert control.asked == targets
    assert not await asyncio.to_thread(lambda: list(tmp_path.glob(".part-*")))
