"""What `--keep` tells the user can be typed as it stands."""

from __future__ import annotations

import json
import shlex
import subprocess

from prfaas_demo.keep import hints
from prfaas_demo.regions import Link, Regions
from tests.demo.demo_values import region


class NoLink(Link):
    def cut(self) -> None: ...

    def restore(self) -> None: ...


def told(name: str | None) -> list[str]:
    return hints(Regions("wan", region("east"), region("west"), NoLink(), (), name), "a-folder")


def test_the_short_curl_has_a_body_that_is_json() -> None:
    (line,) = (line for line in told("wan0") if "Why is the sky blue?" in line)
    words = shlex.split(line)
    assert words[0] == "curl"
    assert f"http://127.0.0.1:{region('west').ports.gateway}/v1/chat/completions" in words
    assert json.loads(words[-1])["messages"][0]["role"] == "user"


def test_the_long_curl_gets_its_body_from_a_program_that_works() -> None:
    (line,) = (line for line in told("wan0") if "random" in line)
    program, _, curl = line.partition(" | ")
    made = subprocess.run(shlex.split(program), capture_output=True, text=True, timeout=30, check=True)
    assert len(json.loads(made.stdout)["messages"][0]["content"].split()) == 600
    assert shlex.split(curl)[-2:] == ["-d", "@-"]


def test_the_link_is_mentioned_only_where_there_is_one() -> None:
    assert any("wan cut wan0" in line for line in told("wan0"))
    assert not any(" wan " in line for line in told(None))


def test_every_part_has_its_metrics_address() -> None:
    assert sum(line.endswith("/metrics") for line in told("wan0")) == 5
