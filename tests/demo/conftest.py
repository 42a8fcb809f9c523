from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.tokenizers_for_tests import write_model


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A tokenizer and a chat template, no weights."""
    return write_model(tmp_path / "model")
