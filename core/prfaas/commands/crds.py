"""`prfaas crds`: the CustomResourceDefinitions of this version, for GitOps and for a look before applying."""

from __future__ import annotations

from pathlib import Path

import click

from prfaas.api.crds.documents import ALL_FILE, crd_files


@click.command(
    epilog="\b\nExamples:\n  prfaas crds | kubectl apply --server-side -f -\n  prfaas crds --output-dir crds"
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file per kind, and one with all, into this folder instead of printing.",
)
def crds(output_dir: Path | None) -> None:
    """Print the CustomResourceDefinitions that this version of prfaas works with."""
    files = crd_files()
    if output_dir is None:
        click.echo(files[ALL_FILE], nl=False)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output_dir / name).write_text(text, encoding="utf-8")
        click.echo(output_dir / name)
