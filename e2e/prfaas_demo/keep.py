"""`--keep`: everything runs on, and the user is told where."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
from pathlib import Path

from prfaas_demo import names
from prfaas_demo.progress import Teller
from prfaas_demo.regions import Regions
from prfaas_demo.stage import Stage

LONG_WORDS = 600


def hints(regions: Regions, folder: str) -> list[str]:
    """Lines for the user: commands that work in an ordinary shell while the demo runs."""
    east, west = regions.east, regions.west
    gateway = west.shell_url(west.ports.gateway)
    url = f"{gateway}/v1/chat/completions"
    lines = [
        "A short prompt, which stays local:",
        f"  {_curl(url, 'Why is the sky blue?')}",
        f"A long one ({LONG_WORDS} words), which goes to the east (see x-prfaas-route among the headers):",
        f"  {_long_curl(url)}",
        "Metrics:",
        f"  gateway       {west.shell_url(west.ports.gateway_health)}/metrics",
        f"  sidecar east  {east.shell_url(east.ports.health)}/metrics",
        f"  sidecar west  {west.shell_url(west.ports.health)}/metrics",
        f"  vLLM east     {east.shell_url(east.ports.engine)}/metrics",
        f"  vLLM west     {west.shell_url(west.ports.engine)}/metrics",
    ]
    if regions.name is not None:
        lines += [
            "The link, while it runs:",
            *(
                f"  {_own_command()} wan {what}"
                for what in (
                    f"status {regions.name}",
                    f"cut {regions.name}",
                    f"restore {regions.name}",
                    f"set {regions.name} --rate 100Mbit",
                )
            ),
        ]
    return [*lines, f"Logs and configuration: {folder}", "Ctrl-C ends everything."]


def _own_command() -> str:
    """How this command is called in a shell that has not activated its environment."""
    return "prfaas" if shutil.which("prfaas") else str(Path(sys.executable).with_name("prfaas"))


def _curl(url: str, prompt: str) -> str:
    body = json.dumps(
        {"model": names.MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 32}
    )
    return f"curl -si {url} -H 'content-type: application/json' -d {shlex.quote(body)}"


def _long_curl(url: str) -> str:
    program = (
        "import json,random;"
        f"print(json.dumps({{'model':'{names.MODEL}','max_tokens':32,'messages':[{{'role':'user','content':"
        f"' '.join(random.choices(['north','south','ship','tide','lamp','wind'],k={LONG_WORDS}))}}]}}))"
    )
    return f"python3 -c \"{program}\" | curl -si {url} -H 'content-type: application/json' -d @-"


async def keep_running(stage: Stage, teller: Teller) -> None:
    """Tell where everything is, and wait. Ends by being cancelled."""
    teller.heading("Still running")
    for line in hints(stage.regions, str(stage.folder)):
        teller.line(line)
    await asyncio.Event().wait()
