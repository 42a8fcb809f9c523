from __future__ import annotations

import pytest

from prfaas_wan import is_supported


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips, with the reason, where no emulator can run."""
    reason = is_supported()
    if reason is not None:
        pytest.skip(reason)
