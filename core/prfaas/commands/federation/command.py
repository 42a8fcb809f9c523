"""The group of commands."""

from __future__ import annotations

import click

from prfaas.commands.federation.accept import accept_deletes
from prfaas.commands.federation.check import check
from prfaas.commands.federation.initialise import init
from prfaas.commands.federation.join import join
from prfaas.commands.federation.rotate import rotate_ca


@click.group(
    epilog="\b\nTwo regions, from nothing:\n"
    "  prfaas federation init --context eu --peer gw.eu.example.org:7410\n"
    "  prfaas federation init --context us --peer gw.us.example.org:7410\n"
    "  prfaas federation join --context us --hub-context eu\n"
    "  prfaas federation check --context us"
)
def federation() -> None:
    """Make clusters known to one another, and see what keeps them apart (docs/federation.md)."""


for each in (init, join, check, accept_deletes, rotate_ca):
    federation.add_command(each)
