"""Errors as data, and when a call is tried again."""

from __future__ import annotations

import json

import pytest

from prfaas.kube import errors
from prfaas.kube.errors import KubeError, from_answer
from prfaas.kube.retry import LONGEST_RETRY_AFTER_SECONDS, backoff_seconds, retry_in_seconds


def answered(code: int, reason: str = "", **details: object) -> bytes:
    return json.dumps(
        {"kind": "Status", "code": code, "reason": reason, "message": "words", "details": details}
    ).encode()


@pytest.mark.parametrize(
    ("code", "reason", "kind", "retryable"),
    [
        (400, "BadRequest", errors.BadRequest, False),
        (401, "Unauthorized", errors.Unauthorized, False),
        (403, "Forbidden", errors.Forbidden, False),
        (404, "NotFound", errors.NotFound, False),
        (409, "Conflict", errors.Conflict, False),
        (409, "AlreadyExists", errors.AlreadyExists, False),
        (410, "Expired", errors.Gone, False),
        (413, "RequestEntityTooLarge", errors.TooLarge, False),
        (422, "Invalid", errors.Invalid, False),
        (429, "TooManyRequests", errors.TooManyRequests, True),
        (500, "InternalError", errors.ServerFailed, True),
        (503, "ServiceUnavailable", errors.ServerFailed, True),
        (418, "", errors.BadRequest, False),
    ],
)
def test_each_answer_has_its_error(code: int, reason: str, kind: type[KubeError], retryable: bool) -> None:
    error = from_answer(code, answered(code, reason), doing="get pods a/b")
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.status == code
    assert str(error) == "get pods a/b: words"


def test_fields_that_the_server_names_are_kept() -> None:
    body = answered(422, "Invalid", causes=[{"field": "spec.replicas", "message": "too many"}])
    assert from_answer(422, body, doing="apply").causes == (("spec.replicas", "too many"),)


def test_a_field_of_another_manager_is_told_from_an_old_version() -> None:
    owned = answered(409, "Conflict", causes=[{"reason": "FieldManagerConflict", "field": ".spec"}])
    first, second = (
        from_answer(409, owned, doing="apply"),
        from_answer(409, answered(409, "Conflict"), doing="apply"),
    )
    assert isinstance(first, errors.Conflict)
    assert first.owned_by_others
    assert isinstance(second, errors.Conflict)
    assert not second.owned_by_others


def test_a_kind_that_is_not_served_is_told_from_an_object_that_is_not_there() -> None:
    missing = from_answer(404, answered(404, "NotFound", name="x", kind="pods"), doing="get")
    unserved = from_answer(404, b"404 page not found\n", doing="get")
    assert isinstance(missing, errors.NotFound)
    assert missing.kind_is_served
    assert isinstance(unserved, errors.NotFound)
    assert not unserved.kind_is_served


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff\xfe", b'{"kind": "Other"}'])
def test_an_answer_of_something_else_is_an_error_too(body: bytes) -> None:
    error = from_answer(502, body, doing="list pods")
    assert type(error) is errors.ServerFailed
    assert str(error).startswith("list pods: ")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0", None), ("-1", None), ("soon", None), ("inf", None), (None, None)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert from_answer(429, answered(429), header, doing="x").retry_after_seconds == seconds


def test_retry_after_in_the_details_counts_without_a_header() -> None:
    assert from_answer(429, answered(429, retryAfterSeconds=7), doing="x").retry_after_seconds == 7.0


def busy(seconds: float | None = None) -> KubeError:
    return errors.TooManyRequests("busy", status=429, retry_after_seconds=seconds)


def test_backoff_doubles_up_to_a_bound_and_half_of_it_is_chance() -> None:
    whole = [backoff_seconds(n, 1.0, first_seconds=1.0, longest_seconds=5.0) for n in range(1, 6)]
    assert whole == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff_seconds(1, 0.0, first_seconds=1.0) == 0.5
    assert backoff_seconds(10**6, 1.0, longest_seconds=5.0) == 5.0


def test_a_servers_wish_is_never_undercut() -> None:
    assert retry_in_seconds(busy(3.0), 1, 0.0, 10.0, is_write=False) == 3.0


def test_no_attempt_after_the_deadline_or_a_wish_beyond_bounds() -> None:
    assert retry_in_seconds(busy(3.0), 1, 0.0, 2.9, is_write=False) is None
    assert retry_in_seconds(busy(LONGEST_RETRY_AFTER_SECONDS + 1), 1, 0.0, 1000.0, is_write=False) is None


def test_a_write_is_repeated_only_when_nothing_was_done() -> None:
    for error in (
        errors.Unreachable("x"),
        errors.ServerFailed("x", status=503),
        errors.DeadlineExceeded("x"),
    ):
        assert retry_in_seconds(error, 1, 0.0, 100.0, is_write=True) is None
        assert retry_in_seconds(error, 1, 0.0, 100.0, is_write=False) is not None
    assert retry_in_seconds(busy(), 1, 0.0, 100.0, is_write=True) is not None


def test_what_cannot_succeed_is_not_repeated() -> None:
    assert retry_in_seconds(errors.Invalid("x", status=422), 1, 0.0, 100.0, is_write=False) is None
