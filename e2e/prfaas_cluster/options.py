"""What the commands of `prfaas cluster` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from prfaas_cluster.errors import ClusterError
from prfaas_setup import SetupError

NAME_VARIABLE = "PRFAAS_CLUSTER_NAME"


@contextmanager
def reported_errors() -> Iterator[None]:
    """Errors that say what to do, without a traceback."""
    try:
        yield
    except (ClusterError, SetupError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def cluster_name(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--name`."""
    return click.option(
        "--name", default="prfaas", show_default=True, envvar=NAME_VARIABLE, help="Which cluster."
    )(command)
