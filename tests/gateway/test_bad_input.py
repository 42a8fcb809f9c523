"""What clients and engines should not send, and what they get for it."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prfaas_bench.fake_engine import Script
from tests.gateway.world import LONG, SHORT, World, running


async def post(world: World, data: bytes, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
    """Status and JSON of a raw POST."""
    sent = {"content-type": "application/json", **headers}
    async with world.client.post(world.url + path, data=data, headers=sent) as response:
        return response.status, json.loads(await response.read())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"prompt": "x",}',
        b"[]",
        b'"text"',
        b'{"prompt": "\xff\xfe"}',
        b'\xef\xbb\xbf{"prompt": "x"}',
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "cut", "comma", "list", "string", "latin", "byte-order-mark", "deep", "endless-number"],
)
async def test_a_body_that_is_no_json_object(world: World, data: bytes) -> None:
    status, answer = await post(world, data)
    assert status == 400
    assert answer["error"]["code"] == "InvalidJson"
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["retryable"] is False
    assert world.engine.asked == []


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_an_oversized_body_is_refused_before_it_is_read(tmp_path: Path, announced: bool) -> None:
    async with running(tmp_path, settings={"limits": {"max_body_bytes": 1000}}) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rsplit(":", 1)[1]))
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        if announced:
            writer.write(head + b"Content-Length: 1000000\r\n\r\n")
        else:
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"BodyTooLarge"' in answer
        assert world.services.budget.used_bytes == 0


async def test_a_compressed_body_is_bounded_by_what_it_unpacks_to(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"limits": {"max_body_bytes": 100_000}}) as world:
        small = gzip.compress(json.dumps({"prompt": SHORT}).encode())
        async with world.client.post(
            f"{world.url}/v1/completions", data=small, headers={"Content-Encoding": "gzip"}
        ) as response:
            assert response.status == 200
        assert world.engine.asked[0].body == {"prompt": SHORT}
        bomb = gzip.compress(b" " * 50_000_000)
        status, answer = await post(world, bomb, **{"Content-Encoding": "gzip"})
        assert (status, answer["error"]["code"]) == (413, "BodyTooLarge")


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"timeouts": {"body_seconds": 0.1}}) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rsplit(":", 1)[1]))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_bodies_of_all_requests_together_are_bounded(tmp_path: Path) -> None:
    limits = {"max_body_bytes": 50_000, "max_buffered_bytes": 60_000}
    async with running(tmp_path, settings={"limits": limits}) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        big = json.dumps({"prompt": SHORT, "user": "x" * 40_000}).encode()
        first = asyncio.create_task(post(world, big))
        await world.engine.wait_for(1)
        status, answer = await post(world, big)
        assert (status, answer["error"]["code"]) == (503, "Overloaded")
        assert answer["error"]["retryable"] is True
        begin.set()
        assert (await first)[0] == 200


async def test_control_fields_never_reach_an_engine(world: World) -> None:
    evil = {"address": "192.0.2.66:7400"}
    body = {
        "model": "chat",
        "prompt": SHORT,
        "kv_transfer_params": {"prfaas": evil, "do_remote_prefill": True},
        "ec_transfer_params": evil,
        "disaggregated_params": evil,
        "bootstrap_host": "192.0.2.66",
        "bootstrap_port": 8998,
        "bootstrap_room": 1,
        "data_parallel_rank": 0,
        "vllm_xargs": {"kv_transfer_params": "x", "mine": 1},
        "seed": 2**63 - 1,
    }
    headers = {
        "X-Prefiller-Host-Port": "192.0.2.66:8000",
        "X-Encoder-Hosts-Ports": "192.0.2.66:8000",
        "X-KV-Cache-Source-Host-Port": "192.0.2.66:8000",
        "X-Data-Parallel-Rank": "3",
        "x-prfaas-route": "remote",
        "X-Request-Id": "mine",
        "Authorization": "Bearer secret",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    assert (await post(world, json.dumps(body).encode(), **headers))[0] == 200
    asked = world.engine.asked[0]
    assert asked.body == {
        "model": "chat",
        "prompt": SHORT,
        "vllm_xargs": {"mine": 1},
        "seed": 2**63 - 1,
    }
    names = {name.lower() for name in asked.headers}
    assert not {
        name for name in names if name.startswith(("x-prefiller", "x-encoder", "x-kv", "x-data", "x-prfaas"))
    }
    assert {"x-request-id", "authorization", "traceparent"} <= names
    assert world.counted("control_fields_removed_total") == 1


async def test_control_fields_are_found_however_they_are_spelled(world: World) -> None:
    hidden = rb'{"prompt": "x", "kv\u005ftransfer_params": {"a": 1}, "kv_transfer_params": {"b": 2}}'
    assert (await post(world, hidden))[0] == 200
    assert json.loads(world.engine.asked[0].raw) == {"prompt": "x"}


async def test_a_remote_request_carries_the_gateways_transfer_only(world: World) -> None:
    async with world.complete(kv_transfer_params={"prompt_token_ids": [6, 6, 6], "evil": 1}) as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()
    decode = world.engine.asked[0].body
    assert set(decode["kv_transfer_params"]) == {"prfaas"}
    assert len(decode["prompt"]) == len(LONG)


async def test_the_prefill_leg_gets_nothing_of_the_clients(world: World) -> None:
    headers = {"Authorization": "Bearer secret", "traceparent": "00-aa-bb-01", "X-Secret": "s"}
    body = {"prompt": LONG, "user": "alice", "tools": [], "logprobs": 5, "metadata": {"k": "v"}}
    assert (await post(world, json.dumps(body).encode(), **headers))[0] == 200
    prefill = world.prefill_sidecar.prefills[0]
    assert set(prefill.body) == {"model", "prompt", "max_tokens", "stream", "kv_transfer_params"}
    names = {name.lower() for name in prefill.headers}
    assert "traceparent" in names
    assert not {"authorization", "x-secret"} & names


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["local", "remote"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
async def test_the_body_keeps_its_values_and_mostly_its_bytes(world: World, prompt: str, chat: bool) -> None:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    messages = [{"role": "user", "content": prompt}]
    field = f'"messages" : {json.dumps(messages)}' if chat else f'"prompt" : {json.dumps(prompt)}'
    odd = (
        f'{{ {field},\t"seed": 9007199254740993, "top_p": 0.10, "min_p": 1e-2,'
        ' "big": 123456789012345678901234567890, "unknown": {"é": [1.0, -0.0]}, "max_tokens":3 }'
    ).encode()
    assert (await post(world, odd, path))[0] == 200
    raw = world.engine.asked[0].raw
    if prompt is SHORT:
        assert raw == odd
    elif chat:
        assert raw.startswith(b'{"kv_transfer_params":{"prompt_token_ids":[')
        assert raw.endswith(odd[1:])
    else:
        got, sent = json.loads(raw), json.loads(odd)
        assert got.keys() == sent.keys() | {"kv_transfer_params"}
        assert {name: repr(got[name]) for name in sent if name != "prompt"} == {
            name: repr(value) for name, value in sent.items() if name != "prompt"
        }


async def test_an_unknown_model_is_named(world: World) -> None:
    status, answer = await post(world, b'{"model": "other", "prompt": "x"}')
    assert status == 404
    assert answer["error"]["code"] == "model_not_found"
    assert "'other'" in answer["error"]["message"]


async def test_a_prompt_longer_than_the_model_allows(world: World) -> None:
    status, answer = await post(world, json.dumps({"prompt": "x" * 4097}).encode())
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "4096" in answer["error"]["message"]
    assert "4097" in answer["error"]["message"]
    assert world.engine.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/metrics", 404),
        ("GET", "/", 404),
        ("POST", "/v1/transfers/x/cancel", 404),
    ],
)
async def test_what_is_not_here(world: World, method: str, path: str, status: int) -> None:
    async with world.client.request(method, world.url + path) as response:
        assert response.status == status
        error = (await response.json())["error"]
        assert error["code"] in ("NotFound", "MethodNotAllowed")


async def test_models_are_listed(world: World) -> None:
    async with world.client.get(f"{world.url}/v1/models") as response:
        models = (await response.json())["data"]
    assert [(model["id"], model["parent"], model["max_model_len"]) for model in models] == [
        ("chat", None, 4096),
        ("chat-lora", "chat", 4096),
    ]
    async with world.client.get(f"{world.url}/v1/models/chat") as response:
        assert (await response.json())["id"] == "chat"
    async with world.client.get(f"{world.url}/v1/models/none") as response:
        assert response.status == 404


async def test_too_many_requests_are_refused_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"limits": {"max_in_flight": 1}}) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        first = asyncio.create_task(post(world, b'{"prompt": "x"}'))
        await world.engine.wait_for(1)
        async with world.client.post(f"{world.url}/v1/completions", data=b'{"prompt": "x"}') as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await response.json())["error"]["code"] == "Overloaded"
        begin.set()
        assert (await first)[0] == 200


async def test_an_answer_over_the_limit_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"limits": {"max_response_bytes": 500}}) as world:
        world.engine.default = Script(tokens=1000)
        status, answer = await post(world, b'{"prompt": "x"}')
        assert (status, answer["error"]["code"]) == (503, "DecodeFailed")


async def test_an_event_over_the_limit_ends_the_stream(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"limits": {"max_event_bytes": 500}}) as world:
        world.engine.default = Script(raw=b"data: {}\n\ndata: " + b"x" * 5000)
        async with world.complete(SHORT, stream=True) as response:
            body = await response.read()
        # Depending on how the bytes are cut the first event may not have been sent alone.
        assert b'"StreamBroken"' in body or b'"DecodeFailed"' in body


async def test_response_headers_can_be_turned_off(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"response_headers": False}) as world, world.complete() as response:
        await response.read()
        assert not [name for name in response.headers if name.lower().startswith("x-prfaas")]


async def test_the_tenant_header_separates_prefixes_and_stays_here(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"tenant_header": "X-Tenant"}) as world:
        routes = []
        for tenant in ("a", "b", "a"):
            body = json.dumps({"prompt": LONG}).encode()
            async with world.client.post(
                f"{world.url}/v1/completions", data=body, headers={"X-Tenant": tenant}
            ) as response:
                routes.append(response.headers["x-prfaas-route"])
                await response.read()
        assert routes == ["remote", "remote", "local"]
        assert all("X-Tenant" not in asked.headers for asked in world.engine.asked)
