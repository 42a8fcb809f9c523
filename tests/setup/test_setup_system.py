"""System packages: announced, refused, or named with the command."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from prfaas_setup import SetupError, system
from prfaas_setup.system import Need

PRESENT = Need("a thing that is there", "there", lambda: True)
ABSENT = Need("a thing that is not", "not-there", lambda: False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run, on what looks like Debian with root."""
    commands: list[list[str]] = []

    def record(command: Sequence[str], **_: object) -> None:
        commands.append(list(command))

    monkeypatch.delenv("NO_INSTALL", raising=False)
    monkeypatch.setattr(system, "run", record)
    monkeypatch.setattr(system, "_debian", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return commands


def test_nothing_is_run_when_all_is_there(installed: list[list[str]]) -> None:
    system.ensure([PRESENT])
    assert installed == []


def test_it_announces_installs_and_looks_again(
    installed: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arrives = Need("a late thing", "late", lambda: len(installed) == 2)
    system.ensure([PRESENT, arrives])
    assert [command[:2] for command in installed] == [["apt-get", "update"], ["apt-get", "install"]]
    assert installed[1][-1] == "late"
    assert "NO_INSTALL=1 refuses this" in capsys.readouterr().err


def test_an_installation_that_brought_nothing_is_an_error(installed: list[list[str]]) -> None:
    with pytest.raises(SetupError, match="still missing after the installation: a thing that is not"):
        system.ensure([ABSENT])
    assert len(installed) == 2


def test_no_install_refuses(installed: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_INSTALL", "1")
    with pytest.raises(
        SetupError, match=r"a thing that is not\. NO_INSTALL is set.* apt-get install .* not-there"
    ):
        system.ensure([PRESENT, ABSENT])
    assert installed == []


def test_others_than_root_are_told_the_command(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError, match=r"Only root can install it.* apt-get install .* not-there"):
        system.ensure([ABSENT])
    assert installed == []


def test_other_systems_are_told_the_package(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_debian", lambda: False)
    with pytest.raises(SetupError, match=r"neither Debian nor Ubuntu.*not-there"):
        system.ensure([ABSENT])
    assert installed == []


def test_what_can_be_done_without_is_said_and_skipped(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_INSTALL", "1")
    system.ensure_if_possible([ABSENT], "the comparison")
    assert installed == []
    assert "Going on without: the comparison" in capsys.readouterr().err


def test_libraries_and_commands_are_looked_for() -> None:
    assert system._library("libc.so.6")()
    assert not system._library("libnothing-of-this-name.so.9")()
    assert system._command("sh")()
    assert not system._command("no-command-of-this-name")()
