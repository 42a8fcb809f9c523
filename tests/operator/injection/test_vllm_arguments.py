"""vLLM's command line: what is added to which shape, and which arguments are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prfaas_operator.injection.engines import vllm
from tests.operator.injection.pools import container, engine_after, pool, refused, template

FIELD = "spec.workload.template.spec.containers[engine]"


def added(one: dict[str, Any], kind: str = "PrefillPool", **spec: Any) -> list[str]:
    """The arguments after the template's own, without the connector's and those of KV events."""
    arguments = engine_after(pool(kind, template(one), **spec))["args"]
    own = len(one.get("args") or [])
    assert arguments[:own] == (one.get("args") or [])
    assert (arguments[-4], arguments[-2]) == ("--kv-events-config", "--kv-transfer-config")
    return list(arguments[own:-4])


PORT = ["--port", "8000"]
SERVED = ["--served-model-name", "chat"]


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, ["org/model"], [*SERVED, *PORT]),
        (None, ["serve", "org/model"], [*SERVED, *PORT]),
        (None, ["vllm", "serve", "org/model"], [*SERVED, *PORT]),
        (None, ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"], [*SERVED, *PORT]),
        (None, ["--model=org/model", "--port", "8000"], SERVED),
        (None, None, ["--model", "chat", *SERVED, *PORT]),
        (None, ["--enforce-eager"], ["--model", "chat", *SERVED, *PORT]),
        (["vllm", "serve"], ["org/model"], [*SERVED, *PORT]),
        (["vllm", "serve", "org/model"], None, [*SERVED, *PORT]),
        (["vllm"], ["serve", "org/model", "--port=8000"], SERVED),
        (["/opt/env/bin/vllm", "serve"], ["m", "--served-model-name", "a", "chat", "--dtype", "auto"], PORT),
        (["python3", "-m", "vllm.entrypoints.openai.api_server"], ["--model", "m"], [*SERVED, *PORT]),
        (["tini", "--", "vllm", "serve", "m"], ["--served_model_name=chat"], PORT),
        (["vllm", "serve"], ["$(MODEL)", "--port", "$(PORT)"], SERVED),
    ],
)
def test_only_what_is_missing_is_added(
    command: list[str] | None, args: list[str] | None, expected: list[str]
) -> None:
    engine = container(env=[{"name": "MODEL", "value": "m"}, {"name": "PORT", "value": "8000"}])
    del engine["args"]
    engine |= {key: value for key, value in (("command", command), ("args", args)) if value is not None}
    assert added(engine) == expected


def test_the_revision_goes_with_a_model_that_prfaas_names_and_with_no_other() -> None:
    model = {"model": {"name": "org/model", "revision": "abc"}}
    bare = container()
    del bare["args"]
    assert added(bare, **model)[:4] == ["--model", "org/model", "--revision", "abc"]
    assert "--revision" not in added(container(), **model)
    own = container(args=["--revision", "own"])
    assert added(own, **model)[:3] == ["--model", "org/model", "--served-model-name"]


def test_extra_arguments_stand_between_the_templates_own_and_those_of_prfaas() -> None:
    engine = {"type": "VLLM", "extraArgs": ["--block-size", "32"]}
    assert added(container(), engine=engine)[:2] == ["--block-size", "32"]


@pytest.mark.parametrize(("kind", "role"), [("PrefillPool", "kv_producer"), ("DecodePool", "kv_consumer")])
def test_the_connector_has_the_pools_role_and_recomputes_what_fails(kind: str, role: str) -> None:
    config = json.loads(engine_after(pool(kind))["args"][-1])
    assert config["kv_role"] == role
    assert config["kv_connector"] == "PrfaasConnector"
    assert config["kv_connector_module_path"] == "prfaas_connector.vllm"
    assert config["kv_load_failure_policy"] == "recompute"
    extra = config["kv_connector_extra_config"]
    assert extra["socket"] == "/run/prfaas/engine.sock"
    assert extra.get("layerwise", False) is (kind == "PrefillPool")


def test_the_engine_publishes_what_it_holds_where_only_its_pod_can_hear_it() -> None:
    arguments = engine_after(pool("DecodePool"))["args"]
    config = json.loads(arguments[arguments.index("--kv-events-config") + 1])
    assert config["enable_kv_cache_events"] is True
    assert config["publisher"] == "zmq"
    for name in ("endpoint", "replay_endpoint"):
        assert config[name].startswith("ipc://@")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kv-events-config", '{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}'],
        ["--kv_events_config={}"],
        ["--kv-events-config.enable_kv_cache_events", "true"],
        ["--data-parallel-size", "2"],
        ["--data_parallel_size=2"],
        ["-dp", "2"],
    ],
)
@pytest.mark.parametrize("as_extra", [False, True])
def test_an_engine_that_is_told_otherwise_is_left_alone(arguments: list[str], as_extra: bool) -> None:
    if as_extra:
        made = pool("DecodePool", engine={"type": "VLLM", "extraArgs": arguments})
    else:
        made = pool("DecodePool", template(container(args=["m", *arguments])))
    given = engine_after(made)["args"]
    assert sum("events" in one and one.startswith("--") for one in given) == (
        1 if "events" in arguments[0].replace("_", "-") else 0
    )
    assert "ipc://@prfaas-kv-events" not in " ".join(given)


def test_pods_on_the_nodes_network_do_not_publish() -> None:
    on_the_node = template(container())
    on_the_node["spec"]["hostNetwork"] = True
    assert "--kv-events-config" not in engine_after(pool("DecodePool", on_the_node))["args"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--kv-transfer-config", "{}"], "--kv-transfer-config"),
        (["--kv_transfer_config={}"], "--kv-transfer-config"),
        (["--kv-transfer-config.kv_role", "kv_both"], "--kv-transfer-config"),
        (["--kv-transf", "{}"], "--kv-transfer-config"),
        (["--config", "/etc/vllm.yaml"], "--config"),
        (["--port", "9000"], "spec.engine.port"),
        (["--port=$(UNKNOWN)"], "spec.engine.port"),
        (["--host", "127.0.0.1"], "--host"),
        (["--uds", "/x"], "--uds"),
        (["--ssl-keyfile", "/x"], "--ssl-keyfile"),
        (["--served-model-name", "other"], "spec.model.name"),
        (["--pipeline-parallel-size", "2"], "--pipeline-parallel-size"),
        (["-pp", "2"], "--pipeline-parallel-size"),
        (["--kv-cache-dtype", "fp8"], "--kv-cache-dtype"),
        (["--speculative-config.method", "ngram"], "--speculative-config"),
        (["--api-key", "secret-word"], "mutual TLS"),
    ],
)
def test_arguments_that_cannot_stay_are_refused_by_name_with_a_remedy(
    arguments: list[str], word: str
) -> None:
    ((field, reason, message),) = refused(pool(pod_template=template(container(args=["m", *arguments]))))
    assert (field, reason) == (f"{FIELD}.args", "FieldConflict")
    assert word in message
    assert "secret-word" not in message
    found = refused(pool(engine={"type": "VLLM", "extraArgs": arguments}))
    assert {where for where, _, _ in found} == {"spec.engine.extraArgs"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],  # noqa: S104  (text)
        ["--host", "::"],
        ["--pipeline-parallel-size=1"],
        ["--kv-cache-dtype", "auto"],
        ["--config-format", "hf"],
        ["--kv-cache-memory-bytes", "1"],
        ["--served-model-name", "other", "chat"],
        ["--port", "8000"],
    ],
)
def test_arguments_that_may_stay(arguments: list[str]) -> None:
    added(container(args=["m", *arguments]))


@pytest.mark.parametrize(
    ("command", "args", "word"),
    [
        (["sh", "-c"], ["vllm serve m"], "shell"),
        (["/bin/bash", "-lc", "exec vllm serve m"], None, "shell"),
        (None, ["bash", "-c", "vllm serve m"], "shell"),
        (["bash", "/start.sh"], None, "shell"),
        (["/start"], ["m"], "does not show"),
        (["python3", "server.py"], None, "does not show"),
    ],
)
def test_a_command_that_does_not_take_arguments_is_refused_with_the_shape_that_does(
    command: list[str] | None, args: list[str] | None, word: str
) -> None:
    engine = container()
    del engine["args"]
    engine |= {key: value for key, value in (("command", command), ("args", args)) if value is not None}
    ((field, _, message),) = refused(pool(pod_template=template(engine)))
    assert field == f"{FIELD}.{'command' if command else 'args'}"
    assert word in message
    assert '["vllm", "serve"]' in message


def test_a_key_of_the_api_is_refused_where_the_sidecar_would_need_it() -> None:
    keyed = template(container(env=[{"name": "VLLM_API_KEY", "value": "secret-word"}]))
    ((field, _, message),) = refused(pool(pod_template=keyed))
    assert field == f"{FIELD}.env[VLLM_API_KEY]"
    assert "secret-word" not in message
    assert engine_after(pool("DecodePool", keyed))


def test_the_port_in_extra_arguments_is_refused_even_if_it_is_the_same() -> None:
    ((field, _, message),) = refused(pool(engine={"type": "VLLM", "extraArgs": ["--port", "8000"]}))
    assert field == "spec.engine.extraArgs"
    assert "spec.engine.port" in message


def test_the_name_that_is_served() -> None:
    assert vllm.served_model(container(args=["m", "--served-model-name", "a", "b"])) == "a"
    assert vllm.served_model(container(args=["m"])) == "m"
    assert vllm.served_model(container(args=["--model", "x"])) == "x"
    assert vllm.served_model(container(args=["--enforce-eager"])) is None
    assert vllm.served_model(container(command=["sh", "-c", "x"], args=[])) is None
