"""The `prfaas` command. Subcommands belong to the parts and are found by entry point when they are used.

Core imports no part, so a part adds its command in the entry-point group `prfaas.commands`. A command is
imported only when it is run or its own help is asked for: `prfaas --version` works with no extra installed.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from prfaas import __version__

COMMAND_GROUP = "prfaas.commands"


class PartCommands(click.Group):
    """A group whose subcommands are the entry points of `COMMAND_GROUP`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in _entries())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in _entries():
            if entry.name == cmd_name:
                return _load(entry)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line per command; a command whose extra is missing is listed with what to install."""
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except click.ClickException as error:
                rows.append((name, f"(not available) {error.message}"))
                continue
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=formatter.width)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _entries() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=COMMAND_GROUP))


def _load(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        raise click.ClickException(_missing(entry, error.name or "?")) from error
    if not isinstance(command, click.Command):
        raise click.ClickException(f"the entry point {entry.value} of {COMMAND_GROUP} is not a click command")
    return command


def _missing(entry: EntryPoint, module: str) -> str:
    extras = entry.dist.metadata.get_all("Provides-Extra", []) if entry.dist else []
    named = entry.extras or [name for name in extras if name == entry.name]
    install = f"pip install 'prfaas[{named[0]}]'" if named else f"pip install {module}"
    return f"`prfaas {entry.name}` needs the Python module {module}, which is not installed: {install}"


@click.group(cls=PartCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prfaas")
def main() -> None:
    """Prefill a prompt in one region, decode it in another."""


def kubectl_plugin() -> None:
    """The same under the name that kubectl looks for: `kubectl prfaas …` runs `kubectl-prfaas …`."""
    main(prog_name="kubectl prfaas")
