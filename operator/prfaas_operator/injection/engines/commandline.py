"""An engine's command line as far as a container shows it, read by the rules of Python's argparse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_SHORTEST_ABBREVIATION = len("--abc")


def expanded(tokens: Sequence[str], container: Mapping[str, Any]) -> list[str]:
    """`$(NAME)` replaced by the container's literal variables, as the kubelet will; others stay."""
    values = {
        variable["name"]: str(variable.get("value", ""))
        for variable in container.get("env") or []
        if "name" in variable and "valueFrom" not in variable
    }
    return [_VARIABLE.sub(lambda match: values.get(match[1], match[0]), str(token)) for token in tokens]


@dataclass(frozen=True, slots=True)
class Option:
    """One option as it was written. `value` is None for a flag, or where nothing follows."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The arguments of a program, without the program."""

    tokens: tuple[str, ...]

    def first_positional(self) -> str | None:
        """The first token, unless it is an option."""
        return self.tokens[0] if self.tokens and not self.tokens[0].startswith("-") else None

    def find(self, option: str, short: str | None = None) -> Option | None:
        """The last mention of an option, which is the one that counts.

        Underscores count as dashes and abbreviations as the whole, `--option.key value` as a mention.
        """
        found = None
        for index, token in enumerate(self.tokens):
            name, has_value, value = token.partition("=")
            if not _names(name, option, short):
                continue
            if has_value:
                found = Option(name, value)
            else:
                following = self.tokens[index + 1 : index + 2]
                plain = bool(following) and not following[0].startswith("--")
                found = Option(name, following[0] if plain else None)
        return found

    def values(self, option: str) -> tuple[str, ...]:
        """All values of an option that takes several."""
        found: list[str] = []
        for index, token in enumerate(self.tokens):
            name, has_value, value = token.partition("=")
            if not _names(name, option, None):
                continue
            found = [value] if has_value else []
            for following in () if has_value else self.tokens[index + 1 :]:
                if following.startswith("-"):
                    break
                found.append(following)
        return tuple(found)


def _names(written: str, option: str, short: str | None) -> bool:
    if short is not None and written == short:
        return True
    if not written.startswith("--"):
        return False
    name = "--" + written.removeprefix("--").split(".", 1)[0].replace("_", "-")
    if name == option:
        return True
    # argparse takes an unambiguous beginning for the whole; an ambiguous one does not start at all.
    return len(name) >= _SHORTEST_ABBREVIATION and option.startswith(name) and option != "--model"
