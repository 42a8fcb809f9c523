"""The command line finds the parts' commands lazily and says what to install when a part is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from prfaas import __version__, cli

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make these the installed commands: name -> a command, or the name of a missing module."""

    def install(**commands: object) -> None:
        entries = []
        for name, command in commands.items():
            if isinstance(command, str):
                entries.append(EntryPoint(name, f"{command}:main", cli.COMMAND_GROUP))
                continue
            module = ModuleType(f"installed_{name}")
            module.main = command  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            entries.append(EntryPoint(name, f"{module.__name__}:main", cli.COMMAND_GROUP))
        monkeypatch.setattr(cli, "_entries", lambda: tuple(entries))

    return install


@click.command()
def hello() -> None:
    """Say hello."""
    click.echo("hello")


def test_version_needs_no_part(install: Install) -> None:
    install(broken="prfaas_part_that_is_missing")
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.exit_code == 0
    assert __version__ in result.output


def test_runs_a_command_of_a_part(install: Install) -> None:
    install(hello=hello)
    assert CliRunner().invoke(cli.main, ["hello"]).output == "hello\n"


def test_a_missing_part_is_named_with_what_to_install(install: Install) -> None:
    install(broken="prfaas_part_that_is_missing")
    result = CliRunner().invoke(cli.main, ["broken"])
    assert result.exit_code == 1
    assert "prfaas_part_that_is_missing" in result.output
    assert "pip install" in result.output


def test_a_command_that_needs_an_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("status", "prfaas_part_that_is_missing:main [cli]", cli.COMMAND_GROUP)
    monkeypatch.setattr(cli, "_entries", lambda: (entry,))
    result = CliRunner().invoke(cli.main, ["status"])
    assert result.exit_code == 1
    assert "pip install 'prfaas[cli]'" in result.output


def test_help_lists_what_works_beside_what_is_missing(install: Install) -> None:
    install(hello=hello, broken="prfaas_part_that_is_missing")
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    assert "Say hello." in result.output
    assert "not available" in result.output


def test_an_entry_point_that_is_no_command_is_refused(install: Install) -> None:
    install(odd=42)
    result = CliRunner().invoke(cli.main, ["odd"])
    assert result.exit_code == 1
    assert "not a click command" in result.output


def test_an_unknown_command_is_refused(install: Install) -> None:
    install()
    assert CliRunner().invoke(cli.main, ["nothing"]).exit_code == 2
