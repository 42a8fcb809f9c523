"""Generated values that several tests of the connector share."""

from __future__ import annotations

from hypothesis import strategies as st

from prfaas_connector.local_api import messages
from prfaas_connector.local_api.model_files import MAX_BYTES, NAMES, ModelFile
from prfaas_connector.local_api.units import Lane, Ranges, normalise
from prfaas_connector.manifest import Group, Kind, Layout

# What JSON can carry and UTF-8 can encode: everything but lone surrogates.
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
numbers = st.integers(0, (1 << 62) - 1)
seconds = st.floats(0, 86_400, exclude_min=True, exclude_max=True, allow_nan=False)
ranges = st.lists(st.tuples(numbers, numbers).map(lambda p: (min(p), max(p))), max_size=5).map(normalise)
group_ranges = st.lists(ranges, max_size=4).map(tuple)
lanes = st.lists(
    st.builds(Lane, numbers, numbers, numbers, numbers, st.integers(1, (1 << 62) - 1)), max_size=4
).map(tuple)
positions = st.lists(st.dictionaries(numbers, numbers, max_size=4), max_size=4).map(tuple)

MESSAGES: dict[type, st.SearchStrategy[messages.Message]] = {
    messages.Hello: st.builds(
        messages.Hello,
        protocol=numbers,
        side=texts,
        role=texts,
        rank=numbers,
        world_size=numbers,
        pid=numbers,
        fingerprint=texts,
        fingerprint_fields=st.dictionaries(texts, texts, max_size=4),
    ),
    messages.Welcome: st.builds(messages.Welcome, protocol=numbers, arena_bytes=numbers),
    messages.Facts: st.builds(
        messages.Facts,
        block_tokens=numbers,
        max_model_tokens=numbers,
        served_models=st.lists(texts, max_size=4).map(tuple),
        model_files=st.lists(
            st.builds(
                ModelFile,
                st.sampled_from(NAMES),
                st.integers(0, MAX_BYTES),
                st.from_regex(r"\A[0-9a-f]{64}\Z"),
            ),
            max_size=4,
        ).map(tuple),
        model_files_error=texts,
    ),
    messages.Refused: st.builds(messages.Refused, transfer_id=texts, code=texts, message=texts),
    messages.Produce: st.builds(
        messages.Produce,
        transfer_id=texts,
        prompt_digest=texts,
        consumer=texts,
        lanes=lanes,
        deadline_seconds=seconds,
    ),
    messages.Consume: st.builds(
        messages.Consume,
        transfer_id=texts,
        prompt_digest=texts,
        producer_address=texts,
        producer=texts,
        lanes=lanes,
        want=group_ranges,
        deadline_seconds=seconds,
    ),
    messages.Accepted: st.builds(
        messages.Accepted, transfer_id=texts, offsets=st.lists(numbers, max_size=5).map(tuple)
    ),
    messages.Wanted: st.builds(messages.Wanted, transfer_id=texts, want=group_ranges),
    messages.Publish: st.builds(
        messages.Publish,
        transfer_id=texts,
        lane=numbers,
        first=numbers,
        count=numbers,
        tokens=st.none() | numbers,
    ),
    messages.ProducerDone: st.builds(
        messages.ProducerDone, transfer_id=texts, rank=numbers, complete=st.booleans()
    ),
    messages.Abort: st.builds(messages.Abort, transfer_id=texts, code=texts),
    messages.Progress: st.builds(
        messages.Progress,
        transfer_id=texts,
        landed=group_ranges,
        positions=positions,
        landed_bytes=numbers,
    ),
    messages.Ended: st.builds(messages.Ended, transfer_id=texts, code=texts, message=texts),
    messages.Release: st.builds(messages.Release, transfer_id=texts, taken_tokens=numbers),
}
any_message = st.one_of(*MESSAGES.values())


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Layouts of one to four groups. Block sizes divide one another, as the engine demands of them."""
    base = draw(st.sampled_from([1, 2, 4, 16]))
    groups = []
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(list(Kind)))
        groups.append(
            Group(
                kind=kind,
                block_tokens=base * draw(st.sampled_from([1, 2, 4])),
                window_tokens=draw(st.integers(2, 10 * base)) if kind is Kind.WINDOW else 0,
                layers=tuple(
                    (f"group{index}.layer{layer}", draw(st.integers(1, 64)))
                    for layer in range(draw(st.integers(1, 3)))
                ),
            )
        )
    return Layout(tuple(groups), shards=draw(st.integers(1, 3)))


def subsets(of: Ranges) -> st.SearchStrategy[Ranges]:
    """Some of the units of ranges."""
    units = [unit for start, end in of for unit in range(start, end)]
    if not units:
        return st.just(())
    return st.one_of(
        st.just(of),
        st.sets(st.sampled_from(units)).map(lambda some: normalise((u, u + 1) for u in some)),
        st.integers(0, len(units)).map(lambda n: normalise((u, u + 1) for u in units[:n])),
    )
