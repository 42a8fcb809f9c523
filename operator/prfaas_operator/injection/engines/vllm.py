"""vLLM 0.32: `vllm serve` and `python -m vllm.entrypoints.openai.api_server`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from prfaas.api.conditions import Reason
from prfaas.api.keys import PREFILL_POOL
from prfaas.api.v1alpha1 import Pool
from prfaas_operator.injection import names
from prfaas_operator.injection.engines.commandline import CommandLine, expanded
from prfaas_operator.injection.results import Refusal

HEALTH_PATH: Final = "/health"
API_SERVER_MODULE: Final = "vllm.entrypoints.openai.api_server"
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
_DATA_PARALLEL = ("--data-parallel", "--data_parallel", "-dp")
_EVERYWHERE = frozenset({"", "0.0.0.0", "::", "[::]"})  # noqa: S104  (names, not a listener)


def arguments(pool: Pool, container: Mapping[str, Any], field: str) -> list[str] | tuple[Refusal, ...]:
    """What to append to the container's `args`, or why that cannot be."""
    command = [str(token) for token in container.get("command") or []]
    written = command + [str(token) for token in container.get("args") or []]
    given = _program_arguments(expanded(written, container), bool(command))
    if given is None:
        return (_unreadable(written, f"{field}.command" if command else f"{field}.args"),)
    own = CommandLine(tuple(given))
    extra = CommandLine(tuple(expanded(pool.spec.engine.extra_args, container)))
    refusals = [
        *_conflicts(pool, own, f"{field}.args"),
        *_conflicts(pool, extra, "spec.engine.extraArgs"),
        *_ports(pool, own, extra, f"{field}.args"),
        *_keys(pool, own, extra, container, field),
    ]
    if refusals:
        return tuple(refusals)
    return [*pool.spec.engine.extra_args, *_added(pool, own, extra)]


def transfer_config(pool: Pool) -> str:
    """The value of `--kv-transfer-config`."""
    extra: dict[str, Any] = {"socket": names.SOCKET_PATH}
    if pool.kind == PREFILL_POOL:
        # Only piecewise CUDA graphs call the hook that a producer copies each layer in. Without such graphs
        # (on a
        # CPU, with --enforce-eager) it changes nothing.
        extra["layerwise"] = True
    return json.dumps(
        {
            "kv_connector": "PrfaasConnector",
            "kv_connector_module_path": "prfaas_connector.vllm",
            "kv_role": "kv_producer" if pool.kind == PREFILL_POOL else "kv_consumer",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": extra,
        }
    )


def events_config() -> str:
    """The value of `--kv-events-config`: what the engine holds, told to its sidecar.

    By abstract sockets, which need no port and no common user: nobody outside the pod can connect to them.
    Events hold the prompts' tokens.
    """
    return json.dumps(
        {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": names.KV_EVENTS_ENDPOINT,
            "replay_endpoint": names.KV_REPLAY_ENDPOINT,
            # Kept in the engine's memory: some 10 KB a step, and up to 60 KB one of prefill.
            "buffer_steps": names.KV_EVENTS_BUFFER_STEPS,
        }
    )


def served_model(container: Mapping[str, Any]) -> str | None:
    """The name under which the container serves its model, None where its command line does not tell."""
    line = _line_of(container)
    if line is None:
        return None
    served = line.values("--served-model-name")
    return served[0] if served else _model(line)


def names_model(pool: Pool, container: Mapping[str, Any]) -> bool:
    """Whether the command line, `extraArgs` among it, says which model to load."""
    line = _line_of(container)
    extra = CommandLine(tuple(pool.spec.engine.extra_args))
    return (line is not None and _model(line) is not None) or extra.find("--model") is not None


def port(container: Mapping[str, Any]) -> int | None:
    """The port that the command line names, if it does."""
    line = _line_of(container)
    option = line.find("--port") if line is not None else None
    return int(option.value) if option is not None and option.value and option.value.isdigit() else None


def looks_like_it(container: Mapping[str, Any]) -> bool:
    """Whether a container runs this engine, by its command or else its image's name."""
    if container.get("command"):
        return _line_of(container) is not None
    return "vllm" in str(container.get("image", "")).lower()


def _line_of(container: Mapping[str, Any]) -> CommandLine | None:
    command = [str(token) for token in container.get("command") or []]
    tokens = expanded([*command, *(container.get("args") or [])], container)
    given = _program_arguments(tokens, bool(command))
    return CommandLine(tuple(given)) if given is not None else None


def _program_arguments(tokens: list[str], has_command: bool) -> list[str] | None:
    """The engine's own arguments, None when the tokens do not show that they start it.

    Without a command they belong to the image's entrypoint: `vllm serve`, or in older images the module.
    """
    for index, token in enumerate(tokens):
        name = PurePosixPath(token).name
        if name in _SHELLS:
            return None
        if name == "vllm" and tokens[index + 1 : index + 2] == ["serve"]:
            return tokens[index + 2 :]
        if tokens[index : index + 2] == ["-m", API_SERVER_MODULE]:
            return tokens[index + 2 :]
        if not has_command and token.startswith("--"):
            break
    if has_command:
        return None
    return tokens[1:] if tokens[:1] == ["serve"] else tokens


def _unreadable(tokens: list[str], field: str) -> Refusal:
    shell = next((token for token in tokens if PurePosixPath(token).name in _SHELLS), None)
    what = (
        f"a shell ({shell}) starts the engine, and arguments cannot be added to a script"
        if shell
        else "this does not show that it starts vLLM, so arguments cannot be added"
    )
    return Refusal(
        field,
        Reason.FIELD_CONFLICT,
        f'{what}: write command: ["vllm", "serve"] and the model and options as args, set variables by env, '
        "and "
        "move preparations to an init container",
    )


def _model(line: CommandLine) -> str | None:
    option = line.find("--model")
    return (option.value if option is not None else None) or line.first_positional()


def _added(pool: Pool, own: CommandLine, extra: CommandLine) -> list[str]:
    lines = (own, extra)
    model = pool.spec.model
    added: list[str] = []
    if _model(own) is None and extra.find("--model") is None:
        added += ["--model", model.name]
        if model.revision is not None and not any(line.find("--revision") for line in lines):
            added += ["--revision", model.revision]
    if not any(line.find("--served-model-name") for line in lines):
        added += ["--served-model-name", model.name]
    if own.find("--port") is None:
        added += ["--port", str(pool.spec.engine.port)]
    if _may_publish(pool, lines):
        added += ["--kv-events-config", events_config()]
    return [*added, "--kv-transfer-config", transfer_config(pool)]


def _may_publish(pool: Pool, lines: tuple[CommandLine, ...]) -> bool:
    """Whether the engine can be told to publish its KV events, and is not told otherwise already.

    Several data-parallel ranks cannot share one socket, and pods on the node's network would share the name.
    """
    template = pool.spec.workload.template
    on_the_node = template is not None and bool(template.spec.get("hostNetwork"))
    return not on_the_node and not any(
        line.find("--kv-events-config") is not None
        or any(token.startswith(_DATA_PARALLEL) for token in line.tokens)
        for line in lines
    )


def _conflicts(pool: Pool, line: CommandLine, field: str) -> list[Refusal]:
    found = [
        Refusal(field, Reason.FIELD_CONFLICT, message)
        for option, short, refused, message in _FORBIDDEN
        if (given := line.find(option, short)) is not None and refused(given.value)
    ]
    host = line.find("--host")
    if host is not None and (host.value or "") not in _EVERYWHERE:
        found.append(
            Refusal(
                field,
                Reason.FIELD_CONFLICT,
                f"--host {host.value}: sidecar, kubelet and gateway reach the engine by different addresses; "
                "remove --host",
            )
        )
    if (served := line.values("--served-model-name")) and pool.spec.model.name not in served:
        found.append(
            Refusal(
                field,
                Reason.FIELD_CONFLICT,
                f"--served-model-name has no {pool.spec.model.name!r}, the name that clients use by "
                "spec.model.name: add it, or remove the option",
            )
        )
    return found


def _ports(pool: Pool, own: CommandLine, extra: CommandLine, field: str) -> list[Refusal]:
    found = []
    given = own.find("--port")
    if given is not None and given.value != str(pool.spec.engine.port):
        found.append(
            Refusal(
                field,
                Reason.FIELD_CONFLICT,
                f"--port {given.value} differs from spec.engine.port {pool.spec.engine.port}, which "
                "gateways use: "
                "remove --port, or set spec.engine.port to the same",
            )
        )
    if extra.find("--port") is not None:
        found.append(
            Refusal(
                "spec.engine.extraArgs",
                Reason.FIELD_CONFLICT,
                "--port is set by prfaas: remove it and set spec.engine.port",
            )
        )
    return found


def _keys(
    pool: Pool, own: CommandLine, extra: CommandLine, container: Mapping[str, Any], field: str
) -> list[Refusal]:
    if pool.kind != PREFILL_POOL:
        return []
    places = {
        f"{field}.args": own.find("--api-key"),
        "spec.engine.extraArgs": extra.find("--api-key"),
        f"{field}.env[VLLM_API_KEY]": any(
            variable.get("name") == "VLLM_API_KEY" for variable in container.get("env") or []
        ),
    }
    return [Refusal(place, Reason.FIELD_CONFLICT, _API_KEY) for place, keyed in places.items() if keyed]


def _always(_value: str | None) -> bool:
    return True


def _above_one(value: str | None) -> bool:
    return value != "1"


def _quantised(value: str | None) -> bool:
    return value not in (None, "auto", "float16", "bfloat16", "float32")


_API_KEY: Final = (
    "a key for the engine's API: the sidecar, which passes prefill requests on inside the pod, has none; "
    "remove it "
    "from a prefill pool, whose engine is reached through the sidecar's mutual TLS, and keep others away "
    "from its "
    "port by a NetworkPolicy"
)
_PLAIN: Final = "gateway, sidecar and kubelet speak plain HTTP to the engine; remove it"
_UNSUPPORTED: Final = "the connector does not support this; remove it"

# Option, its short form, for which values it is refused, and why with the remedy.
_FORBIDDEN: Final[tuple[tuple[str, str | None, Callable[[str | None], bool], str], ...]] = (
    (
        "--kv-transfer-config",
        None,
        _always,
        "--kv-transfer-config is set by prfaas, and an engine has one connector: remove it",
    ),
    (
        "--config",
        None,
        _always,
        "--config: its file may set what prfaas sets, and cannot be seen from here: write its settings as "
        "arguments",
    ),
    ("--uds", None, _always, "--uds: the engine has to listen on a TCP port; remove it"),
    ("--headless", None, _always, "--headless: the engine has to serve its HTTP API; remove it"),
    ("--grpc", None, _always, "--grpc: the engine has to serve its HTTP API; remove it"),
    ("--ssl-keyfile", None, _always, f"--ssl-keyfile: {_PLAIN}"),
    ("--ssl-certfile", None, _always, f"--ssl-certfile: {_PLAIN}"),
    (
        "--pipeline-parallel-size",
        "-pp",
        _above_one,
        f"--pipeline-parallel-size above 1: {_UNSUPPORTED}",
    ),
    (
        "--decode-context-parallel-size",
        "-dcp",
        _above_one,
        f"--decode-context-parallel-size above 1: {_UNSUPPORTED}",
    ),
    (
        "--prefill-context-parallel-size",
        "-pcp",
        _above_one,
        f"--prefill-context-parallel-size above 1: {_UNSUPPORTED}",
    ),
    ("--enable-dbo", None, _always, f"--enable-dbo: {_UNSUPPORTED}"),
    ("--speculative-config", "-sc", _always, f"--speculative-config: {_UNSUPPORTED}"),
    ("--kv-sharing-fast-prefill", None, _always, f"--kv-sharing-fast-prefill: {_UNSUPPORTED}"),
    ("--kv-cache-dtype", None, _quantised, f"--kv-cache-dtype with quantised KV: {_UNSUPPORTED}"),
)
