"""One suite for all device copiers: what they copy, and the ordering rules of `device.base`.

Each ordering rule has a control that breaks it and must be caught, so that a pass means something.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from prfaas_connector.device.base import DeviceCopier, Ticket
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.device.lazy import LazyCopier

GUARD = 0xA5
ARENA_BYTES = 1 << 20
BLOCKS = 8
DTYPES = [torch.float32, torch.bfloat16, torch.int8, torch.uint8]

needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def cuda_copier() -> DeviceCopier:
    from prfaas_connector.device.cuda import CudaCopier

    return CudaCopier("cuda")


COPIERS: dict[str, tuple[Callable[[], DeviceCopier], str]] = {
    "cpu": (CpuCopier, "cpu"),
    "lazy": (lambda: LazyCopier(CpuCopier()), "cpu"),
    "cuda": (cuda_copier, "cuda"),
}


@pytest.fixture(params=["cpu", "lazy", pytest.param("cuda", marks=needs_cuda)])
def named(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def copier(named: str, arena: memoryview) -> DeviceCopier:
    made = COPIERS[named][0]()
    made.attach(arena)
    return made


@pytest.fixture
def device(named: str) -> str:
    return COPIERS[named][1]


@pytest.fixture
def arena() -> memoryview:
    return new_arena()


def new_arena() -> memoryview:
    memory = memoryview(mmap.mmap(-1, ARENA_BYTES))
    memory[:] = bytes([GUARD]) * ARENA_BYTES
    return memory


def plain(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Any:
    size = torch.tensor(shape).prod().item() * dtype.itemsize
    random = torch.Generator().manual_seed(7)
    noise = torch.randint(0, 256, (int(size),), dtype=torch.uint8, generator=random)
    return noise.view(dtype).view(shape).to(device)


def interleaved(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Any:
    """One layer of three whose blocks lie side by side."""
    return plain((shape[0], 3, *shape[1:]), dtype, device)[:, 1]


def transposed(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Any:
    """A layout in which heads and tokens lie the other way round in memory."""
    swapped = (shape[0], *shape[1:-3], shape[-2], shape[-3], shape[-1])
    return plain(swapped, dtype, device).transpose(-2, -3)


CACHES = {
    "blocks": (plain, (BLOCKS, 2, 16, 24)),
    "kernel blocks": (plain, (BLOCKS, 4, 2, 4, 24)),
    "layers interleaved": (interleaved, (BLOCKS, 2, 16, 24)),
    "kernel blocks, interleaved": (interleaved, (BLOCKS, 4, 2, 4, 24)),
    "tokens before heads": (transposed, (BLOCKS, 2, 16, 24)),
    "state": (plain, (BLOCKS, 1, 1, 640)),
}


def block_bytes(cache: Any) -> int:
    return int(cache[0].numel() * cache.element_size())


def raw(blocks: Any) -> bytes:
    """Packed bytes; NaNs compare like everything else."""
    return bytes(blocks.contiguous().view(torch.uint8).cpu().numpy().tobytes())


ID_LISTS = [[], [0], [7], [3, 1, 2], [7, 6, 5, 4, 3, 2, 1, 0], [2, 2, 5, 2]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CACHES)
def test_gather_packs_the_blocks_in_order(
    copier: DeviceCopier, device: str, arena: memoryview, kind: str, dtype: torch.dtype
) -> None:
    make, shape = CACHES[kind]
    cache = make(shape, dtype, device)
    blocks = [raw(block) for block in cache]
    for offset, ids in enumerate(ID_LISTS, start=64):
        arena[:] = bytes([GUARD]) * ARENA_BYTES
        start, size = offset * 64, len(ids) * block_bytes(cache)
        copier.gather(cache, ids, arena, start).wait()
        assert bytes(arena[start : start + size]) == b"".join(blocks[block] for block in ids), ids
        assert set(arena[:start]) == {GUARD}
        assert set(arena[start + size :]) == {GUARD}
    assert [raw(block) for block in cache] == blocks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CACHES)
def test_scatter_writes_these_blocks_and_no_others(
    copier: DeviceCopier, device: str, arena: memoryview, kind: str, dtype: torch.dtype
) -> None:
    make, shape = CACHES[kind]
    cache = make(shape, dtype, device)
    size = block_bytes(cache)
    expected = [raw(block) for block in cache]
    for salt, ids in enumerate(ids for ids in ID_LISTS if len(set(ids)) == len(ids)):
        sent = [bytes([(17 * place + at + salt) % 251 for at in range(size)]) for place in range(len(ids))]
        arena[128 : 128 + size * len(ids)] = b"".join(sent)
        for place, block in enumerate(ids):
            expected[block] = sent[place]
        copier.scatter(cache, ids, arena, 128).wait()
        assert [raw(block) for block in cache] == expected, ids


@pytest.mark.parametrize("kind", CACHES)
def test_what_was_gathered_and_scattered_is_the_same_cache(
    copier: DeviceCopier, device: str, arena: memoryview, kind: str
) -> None:
    make, shape = CACHES[kind]
    source = make(shape, torch.bfloat16, device)
    target = torch.zeros_like(source)
    copier.gather(source, [4, 0, 6], arena, 0).wait()
    copier.scatter(target, [1, 2, 3], arena, 0).wait()
    assert [raw(target[block]) for block in (1, 2, 3)] == [raw(source[block]) for block in (4, 0, 6)]


@pytest.mark.parametrize("kind", CACHES)
def test_clear_zeroes_these_blocks_and_no_others(copier: DeviceCopier, device: str, kind: str) -> None:
    make, shape = CACHES[kind]
    cache = make(shape, torch.bfloat16, device)
    expected = [raw(block) for block in cache]
    for ids in ([], [3], [6, 1]):
        for block in ids:
            expected[block] = bytes(block_bytes(cache))
        copier.clear(cache, ids)
        assert [raw(block) for block in cache] == expected


def test_copies_beyond_the_arena_are_an_error(copier: DeviceCopier, device: str, arena: memoryview) -> None:
    cache = plain((BLOCKS, 2, 16, 24), torch.float32, device)
    with pytest.raises((ValueError, RuntimeError)):
        copier.gather(cache, [0, 1], arena, ARENA_BYTES - block_bytes(cache)).wait()


# The ordering rules. `busy` keeps a device that runs beside the host from having finished already.


def busy(device: str) -> None:
    if device == "cuda":
        torch.cuda._sleep(200_000_000)


def filled(device: str, value: float) -> Any:
    return torch.full((BLOCKS, 2, 16, 24), value, dtype=torch.float32, device=device)


def in_arena(arena: memoryview, blocks: int) -> list[float]:
    block = 2 * 16 * 24
    values = torch.frombuffer(arena, dtype=torch.float32, count=blocks * block).view(blocks, block)
    assert torch.equal(values, values[:, :1].expand_as(values)), "a block was torn"
    return [float(value) for value in values[:, 0]]


def wait(ticket: Ticket) -> None:
    ticket.wait()
    assert ticket.done()


def do_not_wait(ticket: Ticket) -> None:
    """Breaks rules 2 and 4."""


def poll(ticket: Ticket) -> None:
    """Every copier gets done without anybody waiting."""
    while not ticket.done():
        continue


def rule_1(copier: DeviceCopier, device: str, arena: memoryview) -> None:
    """A gather reads what was written before it."""
    cache = filled(device, 1.0)
    busy(device)
    cache.fill_(2.0)
    copier.gather(cache, [0, 5], arena, 0).wait()
    assert in_arena(arena, 2) == [2.0, 2.0]


def rule_2(
    copier: DeviceCopier, device: str, arena: memoryview, finish: Callable[[Ticket], None] = wait
) -> None:
    """What is published after the ticket is done is there."""
    cache = filled(device, 3.0)
    copier.gather(filled(device, 1.0), [0, 1], arena, 0).wait()
    busy(device)
    finish(copier.gather(cache, [0, 5], arena, 0))
    assert in_arena(arena, 2) == [3.0, 3.0]


def rule_3(copier: DeviceCopier, device: str, arena: memoryview) -> None:
    """A block that is reused after `order_before_next_work` was read before."""
    cache = filled(device, 4.0)
    busy(device)
    tickets = [copier.gather(cache, [block], arena, block * block_bytes(cache)) for block in range(BLOCKS)]
    copier.order_before_next_work()
    cache.fill_(5.0)
    for ticket in tickets:
        ticket.wait()
    assert in_arena(arena, BLOCKS) == [4.0] * BLOCKS


def rule_4(
    copier: DeviceCopier, device: str, arena: memoryview, finish: Callable[[Ticket], None] = wait
) -> None:
    """What is given to the engine after the ticket is done is in the cache."""
    cache = filled(device, 0.0)
    copier.gather(filled(device, 6.0), [0, 1], arena, 0).wait()
    if device == "cuda":
        with torch.cuda.stream(copier._in):
            busy(device)
    finish(copier.scatter(cache, [2, 7], arena, 0))
    # As an engine's kernel would read it, with no more order than a stream of its own gives.
    reader = torch.cuda.Stream() if device == "cuda" else None
    with torch.cuda.stream(reader):
        seen = cache[:, 0, 0, 0].to("cpu")
    assert seen.tolist() == [0.0, 0.0, 6.0, 0.0, 0.0, 0.0, 0.0, 6.0]


@pytest.mark.parametrize("rule", [rule_1, rule_2, rule_3, rule_4])
def test_the_rules_hold(
    copier: DeviceCopier,
    device: str,
    arena: memoryview,
    rule: Callable[[DeviceCopier, str, memoryview], None],
) -> None:
    rule(copier, device, arena)


@pytest.mark.parametrize("rule", [rule_2, rule_4])
def test_a_ticket_gets_done_by_itself(
    copier: DeviceCopier, device: str, arena: memoryview, rule: Callable[..., None]
) -> None:
    rule(copier, device, arena, poll)


def test_clear_lies_between_what_is_before_and_after_it(
    copier: DeviceCopier, device: str, arena: memoryview
) -> None:
    cache = filled(device, 1.0)
    busy(device)
    cache.fill_(2.0)
    copier.clear(cache, [0, 1])
    cache[1].fill_(3.0)
    copier.gather(cache, [0, 1, 2], arena, 0).wait()
    assert in_arena(arena, 3) == [0.0, 3.0, 2.0]


def test_a_second_arena_replaces_the_first(copier: DeviceCopier, device: str, arena: memoryview) -> None:
    cache = filled(device, 1.0)
    copier.gather(cache, [0], arena, 0).wait()
    for value in (2.0, 3.0):
        cache.fill_(value)
        later = new_arena()
        copier.attach(later)
        copier.gather(cache, [0], later, 0).wait()
        assert in_arena(later, 1) == [value]
    assert in_arena(arena, 1) == [1.0]


# Controls: what breaks a rule is caught. The CPU copier is left out: it cannot be late.


class ReadsTooEarly(CpuCopier):
    """A gather that sees the cache as it was, as one would on a stream of its own that waits for nothing."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}

    def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        before = self.seen.setdefault(cache.data_ptr(), torch.full_like(cache, 1.0))
        return super().gather(before, block_ids, arena, offset)


def unordered_cuda() -> DeviceCopier:
    from prfaas_connector.device.cuda import CudaCopier

    class Unordered(CudaCopier):
        """Its gather takes the order of a stream that nothing has been submitted to."""

        def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
            with torch.cuda.stream(torch.cuda.Stream()):
                return super().gather(cache, block_ids, arena, offset)

    return Unordered("cuda")


def forgets_to_order(copier: DeviceCopier) -> DeviceCopier:
    copier.order_before_next_work = lambda: None  # type: ignore[method-assign]
    return copier


LATE = ["lazy", pytest.param("cuda", marks=needs_cuda)]


@pytest.mark.parametrize(
    ("make", "device"), [(ReadsTooEarly, "cpu"), pytest.param(unordered_cuda, "cuda", marks=needs_cuda)]
)
def test_control_a_gather_that_does_not_wait_for_earlier_work(
    make: Callable[[], DeviceCopier], device: str, arena: memoryview
) -> None:
    copier = make()
    copier.attach(arena)
    with pytest.raises(AssertionError):
        rule_1(copier, device, arena)


@pytest.mark.parametrize("named", LATE, indirect=True)
def test_control_publishing_before_the_copy_is_done(
    copier: DeviceCopier, device: str, arena: memoryview
) -> None:
    with pytest.raises(AssertionError):
        rule_2(copier, device, arena, do_not_wait)


@pytest.mark.parametrize("named", LATE, indirect=True)
def test_control_forgetting_the_order(copier: DeviceCopier, device: str, arena: memoryview) -> None:
    with pytest.raises(AssertionError):
        rule_3(forgets_to_order(copier), device, arena)


@pytest.mark.parametrize("named", LATE, indirect=True)
def test_control_using_blocks_before_the_copy_is_done(
    copier: DeviceCopier, device: str, arena: memoryview
) -> None:
    with pytest.raises(AssertionError):
        rule_4(copier, device, arena, do_not_wait)
    if device == "cuda":
        torch.cuda.synchronize()
