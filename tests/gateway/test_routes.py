"""Where requests go, what each leg gets, and what the client sees, when nothing fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from prfaas.prompt_digest import prompt_digest
from prfaas_bench.fake_engine import Script, stream_events
from tests.gateway.fake_sidecar import PrefillScript, transfer
from tests.gateway.tokenizers_for_tests import byte_tokenizer
from tests.gateway.world import LONG, SHORT, World, decode_identity, prefill_identity


async def test_a_short_prompt_is_the_engines_alone(world: World) -> None:
    async with world.complete(SHORT) as response:
        assert response.status == 200
        assert response.headers["x-prfaas-route"] == "local"
        assert response.headers["x-prfaas-reason"] == "UnderThreshold"
        assert "x-prfaas-transfer-id" not in response.headers
        await response.read()
    assert "kv_transfer_params" not in world.engine.asked[0].body
    assert world.prefill_sidecar.prefills == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_prompt_goes_on_both_legs_at_once(world: World, stream: bool) -> None:
    begin, finish = asyncio.Event(), asyncio.Event()
    world.engine.scripts = [Script(begin=begin)]
    world.prefill_sidecar.prefill_scripts = [PrefillScript(finish=finish)]

    async def ask() -> dict[str, str]:
        async with world.complete(stream=stream) as response:
            await response.read()
            return dict(response.headers)

    client = asyncio.create_task(ask())
    prefill, decode = await asyncio.gather(world.prefill_sidecar.wait_for_prefill(), world.engine.wait_for(1))
    # Neither leg has been answered, and both are there.
    finish.set()
    begin.set()
    headers = await client

    ids = byte_tokenizer().encode(LONG).ids
    assert decode.transfer is not None
    transfer_id = decode.transfer["transfer_id"]
    assert len(transfer_id) == 32
    assert headers["x-prfaas-transfer-id"] == transfer_id
    assert (headers["x-prfaas-route"], headers["x-prfaas-reason"]) == ("remote", "OverThreshold")
    expected = {"version": 1, "transfer_id": transfer_id, "prompt_digest": prompt_digest(ids)}
    deadline = decode.transfer["deadline_seconds"]
    assert deadline == pytest.approx(30 + 2 * 0.45)
    assert prefill.body == {
        "model": "chat",
        "prompt": ids,
        "max_tokens": 1,
        "stream": False,
        "kv_transfer_params": {
            "prfaas": {
                **expected,
                "leg": "prefill",
                "consumer": decode_identity(),
                "deadline_seconds": deadline,
            }
        },
    }
    assert decode.path == "/v1/completions"
    assert decode.body == {
        "model": "chat",
        "prompt": ids,
        "max_tokens": 3,
        "stream": stream,
        "kv_transfer_params": {
            "prfaas": {
                **expected,
                "leg": "decode",
                "producer": {"address": "192.0.2.1:7400", "identity": prefill_identity()},
                "deadline_seconds": deadline,
            },
        },
    }


async def test_a_chat_is_rendered_and_tokenised_once(world: World) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": LONG}, {"type": "text", "text": "And?"}]},
    ]
    body = {"model": "chat", "messages": messages, "cache_salt": "pepper"}
    async with world.client.post(f"{world.url}/v1/chat/completions", json=body) as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()
    text = (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{LONG}\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = byte_tokenizer().encode(text).ids
    prefill = world.prefill_sidecar.prefills[0].body
    assert prefill["prompt"] == ids
    assert prefill["cache_salt"] == "pepper"
    assert prefill["kv_transfer_params"]["prfaas"]["prompt_digest"] == prompt_digest(ids, "pepper")
    decode = world.engine.asked[0]
    assert decode.path == "/v1/chat/completions"
    assert decode.body["messages"] == messages
    assert decode.body["kv_transfer_params"]["prompt_token_ids"] == ids


async def test_token_ids_are_a_prompt_too(world: World) -> None:
    ids = list(range(200))
    async with world.client.post(f"{world.url}/v1/completions", json={"prompt": ids}) as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()
    assert world.prefill_sidecar.prefills[0].body["prompt"] == ids
    decode = world.engine.asked[0].body
    assert decode["prompt"] == ids
    assert set(decode["kv_transfer_params"]) == {"prfaas"}


@pytest.mark.parametrize("prompt", [SHORT, LONG])
async def test_a_stream_passes_byte_for_byte(world: World, prompt: str) -> None:
    script = world.engine.default = Script(tokens=50)
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    async with world.complete(prompt, **options) as response:
        assert response.content_type == "text/event-stream"
        got = await response.read()
    assert got == b"".join(stream_events({"model": "chat", **options}, script))


async def test_events_arrive_as_the_engine_sends_them(world: World) -> None:
    go_on = asyncio.Event()
    world.engine.scripts = [Script(go_on=go_on)]
    async with world.complete(stream=True) as response:
        first = await response.content.readuntil(b"\n\n")
        assert b"k0" in first
        go_on.set()
        assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


async def test_a_repeated_prompt_is_taken_from_the_decode_engines_cache(world: World) -> None:
    async with world.complete() as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()
    async with world.complete(LONG + "More.") as response:
        assert (response.headers["x-prfaas-route"], response.headers["x-prfaas-reason"]) == (
            "local",
            "CachedHere",
        )
        await response.read()


@pytest.mark.parametrize(
    "change", [{"cache_salt": "other"}, {"model": "chat", "prompt": "y" + LONG}], ids=["salt", "first-token"]
)
async def test_another_users_prefix_is_not_this_ones(world: World, change: dict[str, str]) -> None:
    async with world.complete() as response:
        await response.read()
    async with world.complete(**change) as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()


async def test_usage_does_not_call_transferred_tokens_cached(world: World) -> None:
    world.engine.default = Script(cached_tokens=96, kv_transfer_params={"address": "internal"})
    world.decode_sidecar.default_transfer = transfer(code="complete", taken_tokens=80, ended_at=1.0)
    async with world.complete() as response:
        body = await response.json()
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}
    assert body["usage"]["completion_tokens"] == 3
    assert body["kv_transfer_params"] is None


async def test_usage_of_a_stream_is_corrected_in_its_last_chunk_only(world: World) -> None:
    script = world.engine.default = Script(cached_tokens=96, tokens=2)
    world.decode_sidecar.default_transfer = transfer(code="complete", taken_tokens=80, ended_at=1.0)
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    async with world.complete(**options) as response:
        got = await response.read()
    original = b"".join(stream_events({"model": "chat", **options}, script))
    assert got == original.replace(b'"cached_tokens":96', b'"cached_tokens":16')


async def test_usage_without_word_from_the_sidecar_counts_as_transferred(world: World) -> None:
    world.engine.default = Script(cached_tokens=96)
    world.decode_sidecar.default_transfer = None
    async with world.complete() as response:
        body = await response.json()
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_usage_of_a_local_request_is_the_engines(world: World) -> None:
    world.engine.default = Script(cached_tokens=16)
    async with world.complete(SHORT) as response:
        body = await response.json()
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 2}, "SeveralChoices"),
        ({"best_of": 3}, "BestOf"),
        ({"use_beam_search": True}, "BeamSearch"),
        ({"prompt": [LONG, LONG]}, "SeveralPrompts"),
        ({"prompt": [[1, 2], [3]]}, "SeveralPrompts"),
        ({"prompt_logprobs": 1}, "PromptLogprobs"),
        ({"echo": True}, "Echo"),
        ({"prompt_embeds": "AAAA"}, "PromptEmbeds"),
        ({"suffix": "end"}, "Suffix"),
        ({"truncate_prompt_tokens": 10}, "Truncation"),
        ({"model": "chat-lora"}, "Adapter"),
        ({"add_special_tokens": "yes"}, "Rendering"),
        ({"prompt": 5}, "Rendering"),
    ],
)
async def test_kinds_of_completions_that_stay_local(
    world: World, fields: dict[str, object], reason: str
) -> None:
    body = {"model": "chat", "prompt": LONG, **fields}
    async with world.client.post(f"{world.url}/v1/completions", json=body) as response:
        assert (response.headers["x-prfaas-route"], response.headers["x-prfaas-reason"]) == ("local", reason)
        await response.read()
    assert world.engine.asked[0].body == body
    assert world.prefill_sidecar.prefills == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "Media"),
        ({"role": "user", "content": [{"type": "text", "text": LONG, "image_url": "data:,"}]}, "Media"),
        ({"role": "user", "content": [{"type": "thinking", "thinking": LONG}]}, "Rendering"),
        ({"role": "developer", "content": LONG}, "Rendering"),
        ({"role": "user", "content": 7}, "Rendering"),
        ({"content": LONG}, "Rendering"),
        ("hello", "Rendering"),
        ({"role": "user", "content": LONG + "\ud800"}, "Rendering"),
    ],
)
async def test_kinds_of_chats_that_stay_local(world: World, message: object, reason: str) -> None:
    body = {"model": "chat", "messages": [{"role": "system", "content": LONG}, message]}
    async with world.client.post(f"{world.url}/v1/chat/completions", json=body) as response:
        assert (response.headers["x-prfaas-route"], response.headers["x-prfaas-reason"]) == ("local", reason)
        await response.read()
    assert json.loads(world.engine.asked[0].raw) == body


async def test_the_access_log_tells_the_route_and_no_text(world: World, logs: list[dict[str, Any]]) -> None:
    logs.clear()
    world.decode_sidecar.default_transfer = transfer(code="complete", taken_tokens=448, ended_at=1.0)
    async with world.complete(stream=True) as response:
        await response.read()
        transfer_id = response.headers["x-prfaas-transfer-id"]
    await world.settled()
    (fields,) = logs
    assert fields["route"] == "remote"
    assert fields["reason"] == "OverThreshold"
    assert fields["code"] == "OK"
    assert fields["status"] == 200
    assert fields["prompt_tokens"] == fields["uncached_tokens"] == len(LONG)
    assert fields["taken_tokens"] == 448
    assert fields["transfer_id"] == transfer_id
    assert fields["decode_engine"] == "decode-0"
    assert fields["prefill_engine"] == "prefill-0"
    assert 0 < fields["first_byte_seconds"] <= fields["total_seconds"]
    assert "quick brown fox" not in str(fields)
    assert world.counted("requests_total", model="chat", route="remote", reason="OverThreshold", code="OK")
    assert world.counted("transfers_total", engine="prefill-0", code="complete") == 1
    assert world.counted("prompt_tokens_total", model="chat", source="taken") == 448
