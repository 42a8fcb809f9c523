"""`python -m prfaas_setup COMMAND`: results on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from prfaas_setup import doctor, engine, environments, images, models, system
from prfaas_setup.progress import SetupError


def _engine(_: argparse.Namespace) -> None:
    print(engine.ensure_engine())


def _in_engine(chosen: argparse.Namespace) -> None:
    python = engine.ensure_engine()
    # In place of this process, so that signals and the exit status are the command's own.
    os.execve(python, [str(python), *chosen.arguments], {**os.environ, **engine.engine_env()})  # noqa: S606


def _models(chosen: argparse.Namespace) -> None:
    for name in chosen.names:
        print(models.ensure_model(name))


def _images(chosen: argparse.Namespace) -> None:
    names = chosen.names or list(images.PARTS)
    if chosen.engine != "buildah":
        images.build_for_engine(chosen.engine, chosen.base or "", names)
        return
    for image in images.ensure_images(names).values():
        print(f"{image.reference}@{image.digest} {image.archive} {image.archive_bytes}")


def _doctor(_: argparse.Namespace) -> None:
    for line in doctor.report():
        print(line)


def _system(_: argparse.Namespace) -> None:
    system.ensure_if_possible(system.NETWORK_NEEDS, "emulated regions in network namespaces")
    system.ensure_if_possible(system.PROXY_NEEDS, "the tests of the proxy for KV")


def _bench_system(_: argparse.Namespace) -> None:
    system.ensure_if_possible(system.BENCH_NEEDS, "the comparison with iperf3")


def _venv(_: argparse.Namespace) -> None:
    environments.ensure_venv()


def _lock(_: argparse.Namespace) -> None:
    environments.write_locks()


def _clean_cache(_: argparse.Namespace) -> None:
    models.remove_cache()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m prfaas_setup", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, action: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        return command

    add("venv", "create or refresh .venv", _venv)
    add("lock", "resolve requirements/*.txt anew", _lock)
    add("engine", "build the engine environment and print its Python", _engine)
    inside = add("in-engine", "run the engine's Python with the connector importable", _in_engine)
    inside.add_argument(
        "arguments", nargs="*", metavar="-- ARGUMENT", help="arguments of that Python, after --"
    )
    one = add("model", "make one model and print its folder", _models)
    one.add_argument("names", nargs=1, metavar="NAME", help=", ".join(models.MODELS))
    add("models", "make all models and print their folders", _models).set_defaults(names=list(models.MODELS))
    built = add("images", "build the images, and print reference, archive and bytes of each", _images)
    built.add_argument("names", nargs="*", metavar="NAME", help=", ".join(images.PARTS))
    built.add_argument("--engine", default="buildah", help="buildah (default), docker or podman")
    built.add_argument("--base", help="base image by digest; needed for docker and podman")
    add("system", "install what the emulated network needs, if possible", _system)
    add("bench-system", "install what the benchmarks compare with, if possible", _bench_system)
    add("doctor", "say what is there and what is missing", _doctor)
    add("clean-cache", "delete the engine and the models", _clean_cache)

    chosen = parser.parse_args(arguments)
    try:
        chosen.action(chosen)
        sys.stdout.flush()
    except SetupError as error:
        print(f"prfaas set-up: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as head, has seen enough; nothing must be written when Python closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("prfaas set-up: interrupted; the next run starts again where it is safe", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
