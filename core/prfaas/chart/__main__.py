"""`python -m prfaas.chart`: write the chart's generated files, or compare them (`--check`)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from prfaas.chart import access, generate


def generated(root: Path) -> dict[Path, str]:
    """Every generated file of a checkout with the text that it is to have."""
    chart = root / "charts" / "prfaas"
    return {
        chart / "values.yaml": generate.values_yaml(),
        chart / "values.schema.json": generate.values_schema(),
        chart / "files" / "access.yaml": generate.access_yaml(),
        chart / "README.md": generate.with_table((chart / "README.md").read_text()),
        root / "docs" / "access.md": access.markdown(),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; fail when a file differs.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path.cwd,
    help="The checkout; the current folder unless given.",
)
def main(check: bool, root: Path) -> None:
    """Generate values.yaml, its schema, the RBAC rules and the tables of the chart."""
    if not (root / "charts" / "prfaas" / "Chart.yaml").is_file():
        raise click.ClickException(f"{root} is no checkout of prfaas: it has no charts/prfaas/Chart.yaml")
    changed = [
        path for path, text in generated(root).items() if not path.is_file() or path.read_text() != text
    ]
    if check and changed:
        names = ", ".join(str(path.relative_to(root)) for path in changed)
        raise click.ClickException(f"differs from its source: {names}. Run: python -m prfaas.chart")
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generated(root)[path])
        click.echo(f"wrote {path.relative_to(root)}", err=True)


if __name__ == "__main__":
    sys.exit(main())
