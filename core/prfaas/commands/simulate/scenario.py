"""The section `simulation` of a scenario file, and the trace files that it names; see docs/simulator.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prfaas.capacity import InvalidInputError
from prfaas.commands.plan.scenario import loaded
from prfaas.planner import Options, Problem
from prfaas.simulator import Arrival, Settings, Trace, parsed

OWN_CHANGES = "simulation."
_DOCS = "see docs/simulator.md for the fields"


@dataclass(frozen=True, slots=True)
class Simulation:
    """A scenario file as the simulator takes it."""

    problem: Problem
    options: Options
    settings: Settings
    traces: Mapping[str, tuple[Arrival, ...]]


def read(
    path: Path, changes: Sequence[str] = (), *, seed: int | None = None, duration_seconds: float | None = None
) -> Simulation:
    """Read a scenario file and its traces, which are looked for beside it.

    Args:
        changes: of the planner's kinds (`link.NAME=5`, `demand.NAME=12`), or a field of the section
            `simulation` such as `simulation.policy.router=Scheduler`.

    Raises:
        InvalidInputError: what is wrong, with the path in the file and what to write instead.
    """
    own = [change for change in changes if change.startswith(OWN_CHANGES)]
    others = [change for change in changes if not change.startswith(OWN_CHANGES)]
    scenario = loaded(_text(path), others)
    section = deepcopy(dict(scenario.simulation))
    for change in own:
        _apply(section, change)
    if seed is not None:
        section["seed"] = seed
    if duration_seconds is not None:
        section["durationSeconds"] = duration_seconds
    settings = settings_of(section)
    return Simulation(scenario.problem, scenario.options, settings, _traces(path.parent, settings))


def settings_of(section: Mapping[str, Any]) -> Settings:
    """The section as settings. InvalidInputError names the field."""
    try:
        return Settings.model_validate(section)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(("simulation", *(str(part) for part in first["loc"])))
        raise InvalidInputError(field, first["msg"].removeprefix("Value error, "), _DOCS) from error


def _traces(folder: Path, settings: Settings) -> dict[str, tuple[Arrival, ...]]:
    found: dict[str, tuple[Arrival, ...]] = {}
    for pool, demand in settings.demand.items():
        pattern = demand.pattern
        if not isinstance(pattern, Trace) or pattern.file in found:
            continue
        path = folder / pattern.file
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                found[pattern.file] = parsed(pattern.file, lines, pattern.form)
        except OSError as error:
            raise InvalidInputError(
                f"simulation.demand.{pool}.pattern.file",
                f"{pattern.file} cannot be read: {error.strerror}",
                "give a path beside the scenario file",
            ) from error
        except UnicodeDecodeError as error:
            raise InvalidInputError(pattern.file, "is not UTF-8 text", "convert it") from error
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            "scenario", f"cannot be read: {error}", "give a file of UTF-8 text"
        ) from error


def _apply(section: dict[str, Any], change: str) -> None:
    what, equals, text = change.partition("=")
    parts = what.removeprefix(OWN_CHANGES).split(".")
    if not equals or not all(parts):
        raise InvalidInputError(
            "--set", f"{change!r} is not understood", "write simulation.FIELD=VALUE, as in the file"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError("--set", f"the value in {change!r} is not YAML", "write a value") from error
    target = section
    for part in parts[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InvalidInputError("--set", f"{part} in {what} has no fields", "see the file")
        target = inner
    target[parts[-1]] = value
