"""Brings the fleet that serves requests to what is desired, without disturbing what runs.

Members that stay are the same objects: their counters, prefix indexes and failure scores live on. Members
that go are only left out; requests that run there hold them and finish.
"""

from __future__ import annotations

from dataclasses import dataclass

from prfaas_gateway.cluster.membership import Desired, DesiredDecoder, DesiredPrefiller, difference
from prfaas_gateway.config import DecodeEngine, PrefillEngine
from prfaas_gateway.fleet import Decoder, Prefiller
from prfaas_gateway.services import Services


@dataclass(frozen=True, slots=True)
class Applied:
    """What changed.

    Attributes:
        to_ask: members that are new or open again, of which nothing recent is known.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    to_ask: tuple[Decoder | Prefiller, ...]


def apply(services: Services, desired: Desired) -> Applied:
    """Make the living fleet what is desired. Nothing is awaited: requests see the old one or the new one."""
    fleet = services.fleet
    decoders = {decoder.uid: decoder for decoder in fleet.decoders}
    prefillers = {prefiller.uid: prefiller for prefiller in fleet.prefillers}
    to_ask: list[Decoder | Prefiller] = []
    added: list[str] = []
    removed: list[str] = []

    change = difference(decoders, desired.decoders)
    new_decoders = []
    for uid, wanted in desired.decoders.items():
        decoder = decoders.get(uid)
        was_open = decoder is not None and decoder.open
        if decoder is None:
            decoder = services.new_decoder(_decode_engine(wanted))
            decoder.uid, decoder.restarts = uid, wanted.restarts
            added.append(wanted.name)
        _update_decoder(decoder, wanted)
        if not was_open:
            to_ask.append(decoder)
        new_decoders.append(decoder)
    gone: list[Decoder | Prefiller] = [decoders[uid] for uid in change.removed]

    change = difference(prefillers, desired.prefillers)
    new_prefillers = []
    for uid, want in desired.prefillers.items():
        prefiller = prefillers.get(uid)
        was_open = prefiller is not None and prefiller.open
        if prefiller is None:
            prefiller = services.new_prefiller(_prefill_engine(want))
            prefiller.region = want.region
            prefiller.uid, prefiller.restarts = uid, want.restarts
            added.append(want.name)
        _update_prefiller(services, prefiller, want)
        if not was_open:
            to_ask.append(prefiller)
        new_prefillers.append(prefiller)
    gone += [prefillers[uid] for uid in change.removed]

    # Whoever is first gets what could go to any of them. Strings hash differently in every process, so each
    # gateway has another first.
    fleet.decoders = tuple(sorted(new_decoders, key=lambda decoder: hash(decoder.uid)))
    fleet.prefillers = tuple(sorted(new_prefillers, key=lambda prefiller: hash(prefiller.uid)))
    for member in gone:
        member.open = False
        member.index.close()
        removed.append(member.name)
        services.metrics.forget_engine(member.name)
    return Applied(tuple(added), tuple(removed), tuple(to_ask))


def _update_decoder(decoder: Decoder, wanted: DesiredDecoder) -> None:
    engine = decoder.config
    if (engine.url, engine.identity, engine.models) != (wanted.url, wanted.identity, tuple(wanted.routes)):
        moved = engine.url != wanted.url
        decoder.config = _decode_engine(wanted)
        if moved:
            _forget(decoder)
    if decoder.restarts != wanted.restarts:
        decoder.restarts = wanted.restarts
        _forget(decoder)
    decoder.routes = dict(wanted.routes)
    decoder.open = wanted.open
    decoder.fingerprint = wanted.fingerprint
    decoder.files = wanted.files


def _forget(decoder: Decoder) -> None:
    """What answers there now has another cache, and may be another version."""
    decoder.index.forget()
    decoder.tokenizer_agrees.clear()


def _update_prefiller(services: Services, prefiller: Prefiller, wanted: DesiredPrefiller) -> None:
    engine = _prefill_engine(wanted) if _differs(prefiller.config, wanted) else prefiller.config
    if prefiller.restarts != wanted.restarts or engine.control != prefiller.config.control:
        prefiller.index.forget()
    prefiller.config, prefiller.restarts = engine, wanted.restarts
    prefiller.pool = wanted.pool
    prefiller.open = wanted.open
    prefiller.fingerprint = wanted.fingerprint
    if wanted.region is not None and services.peers is not None:
        prefiller.way = services.peers.way(wanted.region)


def _differs(engine: PrefillEngine, wanted: DesiredPrefiller) -> bool:
    return (engine.control, engine.kv_address, engine.kv_server_name, engine.identity, engine.models) != (
        wanted.control,
        wanted.kv_address,
        wanted.kv_server_name,
        wanted.identity,
        wanted.models,
    )


def _decode_engine(wanted: DesiredDecoder) -> DecodeEngine:
    # Not validated: rules for what people write in a configuration are narrower than the API's, and one pool
    # with a model named as no configuration would must not end the gateway of all.
    return DecodeEngine.model_construct(
        name=wanted.name,
        url=wanted.url,
        control=wanted.control,
        identity=wanted.identity,
        models=tuple(wanted.routes),
    )


def _prefill_engine(wanted: DesiredPrefiller) -> PrefillEngine:
    return PrefillEngine.model_construct(
        name=wanted.name,
        control=wanted.control,
        kv_address=wanted.kv_address,
        kv_server_name=wanted.kv_server_name,
        identity=wanted.identity,
        models=wanted.models,
    )
