"""Two real engines, each with a real sidecar, joined by a link that the test can cut."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prfaas_setup
from prfaas_connector.request import prompt_digest
from prfaas_demo.certificates import ca
from prfaas_lab.engine import Answer, Engine
from prfaas_lab.link import Link
from prfaas_lab.polling import eventually
from prfaas_lab.sidecar import Sidecar

PRODUCER = "spiffe://test/region/east/ns/default/pool/PrefillPool/long"
CONSUMER = "spiffe://test/region/west/ns/default/pool/DecodePool/chat"


@dataclass
class Legs:
    """Both legs of one request. ``started_at`` is monotonic."""

    transfer_id: str
    prefill: str
    decode: str
    started_at: float = field(default_factory=time.monotonic)


@dataclass
class Pair:
    """Producer and consumer, engines and sidecars, and the link between the sidecars."""

    prefill: Engine
    decode: Engine
    producer: Sidecar
    consumer: Sidecar
    link: Link

    def start(self, prompt: list[int], max_tokens: int, *, deadline_seconds: float = 60.0) -> Legs:
        """Both legs at once, as a gateway does."""
        transfer_id = secrets.token_hex(16)
        digest = prompt_digest(prompt, None)
        common = {
            "version": 1,
            "transfer_id": transfer_id,
            "prompt_digest": digest,
            "deadline_seconds": deadline_seconds,
        }
        producer = {"address": f"127.0.0.1:{self.link.port}", "identity": PRODUCER}
        decode = self.decode.start(
            prompt, max_tokens, {"prfaas": {**common, "leg": "decode", "producer": producer}}
        )
        prefill = self.prefill.start(
            prompt, 1, {"prfaas": {**common, "leg": "prefill", "consumer": CONSUMER}}
        )
        return Legs(transfer_id, prefill, decode)

    def finish(self, legs: Legs) -> tuple[Answer, dict[str, Any]]:
        """The decode leg's answer, and what the consumer's sidecar knows of the transfer."""
        answer = self.decode.finish(legs.decode)
        self.prefill.finish(legs.prefill)
        return answer, self.ended(legs.transfer_id)

    def ended(self, transfer_id: str) -> dict[str, Any]:
        """The consumer side's record, once it has ended."""

        def record() -> dict[str, Any] | None:
            found = self.consumer.call("GET", f"/v1/transfers/{transfer_id}")
            return found if found["ended_at"] is not None else None

        return eventually(record, within_seconds=20, what="the transfer's record has ended") or {}

    def run(self, prompt: list[int], max_tokens: int) -> tuple[Answer, dict[str, Any]]:
        """`start` and `finish`."""
        return self.finish(self.start(prompt, max_tokens))

    def local(self, prompt: list[int], max_tokens: int) -> Answer:
        """The decode engine alone, with an empty prefix cache before and after."""
        self.decode.reset()
        answer = self.decode.generate(prompt, max_tokens)
        self.reset()
        return answer

    def reset(self) -> None:
        """Empty both prefix caches; fails if blocks are still held."""
        self.decode.reset()
        self.prefill.reset()

    def assert_nothing_held(self) -> None:
        """Both arenas are empty and both engines hold no blocks."""
        for sidecar in (self.producer, self.consumer):
            sidecar.wait_until_empty()
        self.reset()


@contextlib.contextmanager
def pair(folder: Path, model: str, **arguments: Any) -> Iterator[Pair]:
    """Start everything; engines in parallel. ``arguments`` go to vLLM's EngineArgs; ``device`` to the
    connector."""
    authority = ca("engine tests")
    device = arguments.pop("device", "auto")
    # These tests are about what crosses, so engines wait for it: a busy machine must not make them compute
    # early.
    waiting = arguments.pop("waiting", {"max_patience_seconds": 60.0, "local_prefill_tokens_per_second": 0.1})
    sidecar_settings = arguments.pop("sidecar", {})
    producer = Sidecar(
        folder, "producer", authority, PRODUCER, {"peers": {"accept": [CONSUMER]}, **sidecar_settings}
    )
    with contextlib.ExitStack() as stack:
        stack.callback(producer.stop)
        link = Link(producer.ports["peer"])
        stack.callback(link.close)
        dial = [{"identity": PRODUCER, "addresses": [f"127.0.0.1:{link.port}"]}]
        consumer = Sidecar(
            folder, "consumer", authority, CONSUMER, {"peers": {"dial": dial}, **sidecar_settings}
        )
        stack.callback(consumer.stop)
        engines = []
        for name, role, sidecar in (
            ("prefill", "kv_producer", producer),
            ("decode", "kv_consumer", consumer),
        ):
            transfer = {
                "kv_connector": "PrfaasConnector",
                "kv_connector_module_path": "prfaas_connector.vllm",
                "kv_role": role,
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": {"socket": str(sidecar.socket), "device": device, **waiting},
            }
            defaults = {
                "model": str(prfaas_setup.model_path(model)),
                "dtype": "float32",
                "enforce_eager": True,
                "max_model_len": 4096,
                "max_num_seqs": 8,
                "max_num_batched_tokens": 256,
                "enable_prefix_caching": True,
                "kv_transfer_config": transfer,
            }
            engine = Engine(folder, name, {**defaults, **arguments})
            stack.callback(engine.stop)
            engines.append(engine)
        for engine, sidecar in zip(engines, (producer, consumer), strict=True):
            engine.wait_until_ready()
            eventually(sidecar.ready, within_seconds=20, what="the engine has greeted its sidecar")
        yield Pair(engines[0], engines[1], producer, consumer, link)
