"""Leaf and authority of a region are replaced while transfers run; none of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from prfaas_demo.certificates import Authority, ca
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import everything, lanes_of
from tests.sidecar.harness import (
    CONSUMER,
    PRODUCER,
    Pair,
    Process,
    engines,
    install,
    sidecar,
    transfer_id,
)
from tests.sidecar.test_peers_file import Volume
from tests.sidecar.wire import proxy

LANES = lanes_of(layers=2, units=4, unit_bytes=8192)
DIAL = {"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}
AT_ONCE = 3


async def renew(side: Process, signer: Authority, trusted: list[Authority], identity: str) -> None:
    """A new leaf, and what is trusted beside it."""
    await install(side, signer.leaf(identity), b"".join(each.pem for each in trusted))


class Load:
    """Transfers one after another, several at a time, until it is stopped."""

    def __init__(self, two: Pair, address: str) -> None:
        self.complete = 0
        self.failed: list[str] = []
        self._two, self._address = two, address
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(AT_ONCE)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def more(self, count: int = 2 * AT_ONCE) -> None:
        """Wait for some more transfers to complete."""
        wanted = self.complete + count
        await eventually_async(lambda: self.failed or self.complete >= wanted, within_seconds=30)
        assert not self.failed

    async def _run(self) -> None:
        two = self._two
        while not self._stop.is_set():
            name = transfer_id()
            produced = await two.prefill.produce(name, LANES, CONSUMER)
            consumed = await two.decode.consume(name, LANES, self._address, PRODUCER)
            two.prefill.produce_all(produced, LANES, step=1)
            end = await two.decode.ended(name)
            if end.code == "complete":
                two.decode.check(consumed, LANES, everything(LANES), two.decode.landed(name))
                self.complete += 1
            else:
                self.failed.append(f"{end.code}: {end.message}")
            two.decode.release(name)


@pytest.mark.parametrize("rotating", ["us", "eu"])
async def test_an_authority_is_replaced_while_transfers_run(tmp_path: Path, rotating: str) -> None:
    """The steps of `prfaas federation rotate-ca`, with new handshakes forced after each."""
    us, eu = ca("us"), ca("eu")
    new = ca(f"{rotating}, the new one")
    volumes = {side: await asyncio.to_thread(Volume, tmp_path / f"{side}-peers") for side in ("us", "eu")}

    def peers(us_bundle: list[Authority], eu_bundle: list[Authority]) -> dict[str, dict[str, Any]]:
        def trust(bundle: list[Authority]) -> dict[str, str]:
            return {"trust": "".join(each.pem.decode() for each in bundle)}

        return {
            "us": {"accept": [CONSUMER], "regions": {"eu": trust(eu_bundle)}},
            "eu": {"dial": [DIAL], "regions": {"us": trust(us_bundle)}},
        }

    async def tell(bundles: dict[str, dict[str, Any]]) -> None:
        for side, content in bundles.items():
            await asyncio.to_thread(volumes[side].put, content)

    await tell(peers([us], [eu]))
    async with (
        sidecar(tmp_path / "p", us.leaf(PRODUCER), peers_file=str(volumes["us"].path), peers=None) as p,
        sidecar(
            tmp_path / "c",
            eu.leaf(CONSUMER),
            peers_file=str(volumes["eu"].path),
            peers=None,
            link={"resumes": 1000},
        ) as c,
        engines(p, c, us) as two,
        proxy(p.peer_address) as between,
        Load(two, between.address) as load,
    ):
        side, identity, old = (p, PRODUCER, us) if rotating == "us" else (c, CONSUMER, eu)
        other = c if rotating == "us" else p

        async def published(bundle: list[Authority]) -> None:
            seen = len(other.said("peers were read"))
            await tell(peers(bundle, [eu]) if rotating == "us" else peers([us], bundle))
            await eventually_async(lambda: len(other.said("peers were read")) > seen, within_seconds=20)

        steps: list[Callable[[], Awaitable[None]]] = [
            lambda: renew(side, old, [old], identity),  # a leaf is renewed
            lambda: renew(side, old, [old, new], identity),  # begin: both are trusted at home
            lambda: published([old, new]),  # and by the others
            lambda: renew(side, new, [new, old], identity),  # sign: leaves of the new one
            lambda: published([new]),  # finish: the old one is dropped
            lambda: renew(side, new, [new], identity),
        ]
        await load.more()
        for step in steps:
            await step()
            await load.more()
            between.cut()
            await load.more()
        # Whoever still holds a leaf of the old one is nobody.
        await renew(side, old, [new], identity)
        between.cut()
        await eventually_async(lambda: load.failed, within_seconds=30)
        assert all("NotAuthorised" in reason for reason in load.failed)
