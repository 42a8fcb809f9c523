"""`prfaas federation rotate-ca` against a Secret."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import click
import pytest

from prfaas.api import keys
from prfaas.commands.federation import rotate
from prfaas.kube import errors

OLD, BOTH = (base64.b64encode(text).decode() for text in (b"old\n", b"old\nnew\n"))


class OneSecret:
    """An API server that has the Secret and nothing else."""

    def __init__(self, data: dict[str, str] | None, asked: str | None = None) -> None:
        annotations = {} if asked is None else {keys.ANNOTATION_ROTATE_CA: asked}
        self.body: dict[str, Any] = {
            "metadata": {"resourceVersion": "7", "annotations": annotations},
            "data": data,
        }
        self.patches: list[dict[str, Any]] = []

    def server_now(self) -> datetime:
        return datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    async def get(self, resource: Any, namespace: str, name: str) -> Any:
        if self.body["data"] is None:
            raise errors.NotFound("no secret")
        return self.body

    async def patch(self, resource: Any, namespace: str, name: str, body: Any, *, field_manager: str) -> Any:
        assert (name, field_manager) == (keys.CA_SECRET, keys.MANAGER_CLI)
        assert body["metadata"]["resourceVersion"] == "7"
        self.patches.append(body)


IDLE = {"tls.crt": OLD, "ca.crt": OLD}
TRUSTING = {"tls.crt": OLD, "ca.crt": BOTH, "next.crt": "x", "next.key": "y"}
SIGNING = {"tls.crt": OLD, "ca.crt": BOTH, "previous.crt": "x"}
ASKED = "2026-03-01T11:00:00Z"


async def said(work: Any, api: OneSecret) -> str:
    text: str = await work(api, "prfaas-system")
    return text


async def test_it_is_asked_for_once() -> None:
    api = OneSecret(IDLE)
    assert "The authority is being replaced" in await said(rotate._begin, api)
    (patch,) = api.patches
    assert patch["metadata"]["annotations"] == {keys.ANNOTATION_ROTATE_CA: "2026-03-01T12:00:00Z"}
    again = OneSecret(TRUSTING, ASKED)
    assert "Step 1 of 2, since 2026-03-01 11:00:00 UTC" in await said(rotate._begin, again)
    assert not again.patches


@pytest.mark.parametrize(
    ("data", "asked", "words"),
    [
        (IDLE, None, "No rotation is under way"),
        (IDLE, ASKED, "has not begun yet"),
        (TRUSTING, ASKED, "both authorities are trusted"),
        (SIGNING, "?", "Step 2 of 2, since an unknown time"),
    ],
)
async def test_how_far_it_is(data: dict[str, str], asked: str | None, words: str) -> None:
    assert words in await said(rotate._status, OneSecret(data, asked))


async def test_the_bundle_is_what_others_are_to_trust() -> None:
    assert await said(rotate._bundle, OneSecret(TRUSTING, ASKED)) == "old\nnew"
    assert await said(rotate._bundle, OneSecret({"tls.crt": OLD})) == "old"


async def test_it_is_called_off_only_as_long_as_the_old_one_signs() -> None:
    api = OneSecret(TRUSTING, ASKED)
    assert "Called off" in await said(rotate._abandon, api)
    (patch,) = api.patches
    assert patch["data"] == {"next.crt": None, "next.key": None, "ca.crt": OLD}
    assert patch["metadata"]["annotations"] == {keys.ANNOTATION_ROTATE_CA: None}
    late = OneSecret(SIGNING, ASKED)
    with pytest.raises(click.ClickException, match="signs already"):
        await said(rotate._abandon, late)
    assert not late.patches


async def test_a_namespace_without_an_operator_is_named() -> None:
    with pytest.raises(click.ClickException, match="name the operator's namespace with -n"):
        await said(rotate._status, OneSecret(None))
