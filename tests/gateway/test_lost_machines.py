"""A machine that goes without a word is noticed by the kernel, on whatever the gateway has open to it.

That this ends what waits there is seen in tests/e2e/test_nodes.py, with a node that is switched off.
"""

from __future__ import annotations

from pathlib import Path

from yarl import URL

from tests.gateway.world import LONG, World
from tests.helpers import eventually_async

KEEPALIVE_TIMER = "02"


def _guarded_ports() -> set[int]:
    """Ports of peers to which this machine has a connection with a running keepalive timer."""
    found = set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[5].startswith(KEEPALIVE_TIMER):
            found.add(int(fields[2].rpartition(":")[2], 16))
    return found


async def test_the_kernel_asks_engines_and_sidecars_whether_they_are_there(world: World) -> None:
    async with world.complete(LONG) as answer:
        assert answer.status == 200
        await answer.read()
    peers = {URL(world.engine.url).port, URL(world.prefill_sidecar.url).port}
    assert None not in peers
    await eventually_async(lambda: peers <= _guarded_ports(), within_seconds=3)
