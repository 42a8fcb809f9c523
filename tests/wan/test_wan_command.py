"""The command line, with and without root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import prfaas_wan
from prfaas_wan import control, emulator
from prfaas_wan.command import wan

root = pytest.mark.root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(wan, arguments)


@pytest.mark.parametrize("command", ["", *sorted(wan.commands)])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(*([command] if command else []), "--help")
    assert result.exit_code == 0
    assert "  prfaas wan " in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--rate", "fast"], "'fast' is not a rate"),
        (["up", "--rtt", "50"], "'50' is not a time"),
        (["up", "--loss", "2"], "'2' is not a fraction"),
        (["up", "--queue", "5Gbit"], "'5Gbit' is not a queue length"),
        (["up", "--rtt", "1ms", "--jitter", "5ms"], "jitter is more than the one-way delay"),
        (["up", "--name", "Not/Good"], "name"),
        (["set", "x"], "nothing to change"),
        (["cut", "x", "--direction", "b-to-c"], "b-to-c"),
        (["cut", "nobody"], "no emulator named 'nobody'"),
        (["exec", "nobody", "c", "--", "true"], "'c'"),
    ],
)
def test_bad_input_is_refused_with_a_reason(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert message in result.output


@pytest.mark.parametrize(
    ("patch", "advice"),
    [
        (("os.geteuid", lambda: 1000), "sudo"),
        (("shutil.which", lambda _: None), "install the package"),
        (("prfaas_wan.kernel.TUN_DEVICE", Path("/nonexistent")), "modprobe tun"),
    ],
)
def test_an_unfit_machine_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, patch: tuple[str, object], advice: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda tool: f"/bin/{tool}")
    monkeypatch.setattr(*patch)
    reason = emulator.is_supported()
    assert reason is not None
    assert advice in reason
    result = run("up")
    assert result.exit_code == 1
    assert "[NotSupported]" in result.output


@pytest.fixture
def in_foreground(namespaces: None) -> Iterator[subprocess.Popen[str]]:
    folder = str(Path(prfaas_wan.__file__).parents[1])
    arguments = ["up", "--name", "front", "--rate", "1Gbit", "--rtt", "20ms", "--output", "json"]
    with subprocess.Popen(
        [sys.executable, "-m", "prfaas_wan", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folder},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_until_it_is_told_to_stop(
    in_foreground: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert in_foreground.stdout is not None
    shown: list[str] = []
    while not shown or shown[-1] != "}\n":
        shown.append(in_foreground.stdout.readline())
    status = json.loads("".join(shown))
    assert status["name"] == "front"

    changed = run("set", "front", "--rate", "10Mbit", "--direction", "b-to-a", "--output", "json")
    rates = {
        direction: each["settings"]["rate_bits_per_second"]
        for direction, each in json.loads(changed.output)["directions"].items()
    }
    assert rates == {"a-to-b": 1e9, "b-to-a": 1e7}
    assert run("cut", "front", "--direction", "a-to-b").exit_code == 0
    assert "CUT" in run("status", "front").output
    assert run("restore", "front").exit_code == 0
    assert "CUT" not in run("status", "front").output
    assert "front" in [each["name"] for each in json.loads(run("status", "--output", "json").output)]
    assert "[NameInUse]" in run("up", "--name", "front").output

    in_foreground.send_signal(number)
    assert in_foreground.wait(15) == 0
    assert "front" not in control.running_names()


@root
@pytest.mark.usefixtures("namespaces")
def test_a_detached_emulator_runs_until_down() -> None:
    folder = str(Path(prfaas_wan.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": folder}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prfaas_wan", *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=environment,
        )
        return done.stdout

    command("up", "--detach", "--name", "apart")
    try:
        assert "wan0" in command("exec", "apart", "a", "--", "ip", "link")
    finally:
        assert command("down", "apart") == "apart: ended\n"
    assert "apart" not in control.running_names()


def test_the_group_is_what_the_entry_point_names() -> None:
    assert isinstance(wan, click.Group)
    assert wan.name == "wan"
