"""Sets up what the rest of the repository runs in: environments, the engine, models, system packages.

Uses the standard library only, because it runs before anything is installed. What others use is here;
the same things are commands of `python -m prfaas_setup`.
"""

from __future__ import annotations

from pathlib import Path

from prfaas_setup.engine import engine_env, engine_is_built, ensure_engine, ensure_served_engine_compiled
from prfaas_setup.models import MODELS, Model, ensure_model, model_is_made
from prfaas_setup.progress import SetupError

__all__ = [
    "MODELS",
    "Model",
    "SetupError",
    "engine_env",
    "engine_is_built",
    "engine_python",
    "ensure_served_engine_compiled",
    "model_is_made",
    "model_path",
]


def engine_python() -> Path:
    """The Python of the engine environment; its `vllm` lies beside it. Builds the environment if needed.

    Raises:
        SetupError: it cannot be built here; the text says what to do.
    """
    return ensure_engine()


def model_path(name: str) -> Path:
    """The folder of a model out of `MODELS`. Makes the model if needed.

    Raises:
        SetupError: the name is unknown, or the model cannot be made here.
    """
    return ensure_model(name)
