"""What sidecars tell, read with suspicion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prfaas.api.v1alpha1 import RevisionStatus
from prfaas_operator.runtime.engine_reports import FINGERPRINT_CHARACTERS, read_report


def answer(**fields: Any) -> bytes:
    return json.dumps({"version": 1, "engine_connected": True, **fields}).encode()


def test_a_fingerprint_that_no_status_can_hold_is_refused_where_it_comes_in() -> None:
    longest = "f" * FINGERPRINT_CHARACTERS
    told = read_report(answer(fingerprint=longest)).fingerprint
    assert RevisionStatus(name="r", fingerprint=told).fingerprint == longest
    with pytest.raises(ValueError, match="129 characters"):
        read_report(answer(fingerprint=longest + "f"))


@pytest.mark.parametrize("fingerprint", [None, 7, ["f"], {}])
def test_what_is_no_text_is_no_fingerprint(fingerprint: Any) -> None:
    assert read_report(answer(fingerprint=fingerprint)).fingerprint is None
