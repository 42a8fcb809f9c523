"""status, hold and route against a real API server, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Command
from click.testing import CliRunner, Result
from kubernetes import client

from prfaas.api.keys import ANNOTATION_HOLD, ANNOTATION_LOCAL_ONLY, MANAGER_CLI
from prfaas.commands.overrides import hold, route
from prfaas.commands.status.command import status
from prfaas.kube.client import KubeClient
from tests.api.crd_cases import minimal
from tests.api.crd_client import Resources
from tests.cluster_fixtures import client_of
from tests.commands import fleets
from tests.helpers import eventually

WATCH_SECONDS = 20.0
# The server takes groups out of its discovery at its leisure.
DISCOVERY_SECONDS = 90.0


class Prfaas:
    """The commands for one kubeconfig and one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._where = ["--kubeconfig", str(kubeconfig), "-n", namespace]

    def __call__(self, command: Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments, *self._where])

    def fails(self, command: Command, *arguments: str, code: int = 1) -> str:
        result = self(command, *arguments)
        assert result.exit_code == code, result.output
        return result.output

    def works(self, command: Command, *arguments: str) -> str:
        result = self(command, *arguments)
        assert result.exit_code == 0, result.output
        return result.output


@pytest.fixture
def prfaas(kubeconfig: Path, namespace: str) -> Prfaas:
    return Prfaas(kubeconfig, namespace)


@pytest.fixture
def resources(kubeconfig: Path, namespace: str) -> Iterator[Resources]:
    with client_of(kubeconfig) as api:
        yield Resources(api, namespace)


def annotation(stored: dict[str, Any], key: str) -> Any:
    text = stored["metadata"].get("annotations", {}).get(key)
    return None if text is None else json.loads(text)


def test_status_shows_what_is_there(
    prfaas: Prfaas, resources: Resources, kubeconfig: Path, namespace: str
) -> None:
    assert f"No pools and no routes in namespace {namespace}." in prfaas.works(status)
    resources.create(minimal("DecodePool", "chat"))
    resources.create(minimal("PrefillPool", "long"))
    resources.create(minimal("PrefillRoute", "chat"))
    seen = fleets.pool("PrefillPool", "long")["status"] | {"observedGeneration": 1}
    resources.apply_status("PrefillPool", "long", seen, "operator")
    pod = fleets.pod("PrefillPool", "long", 1)
    pod["metadata"] = {"name": "long-1", "labels": pod["metadata"]["labels"]}
    pod["spec"] = {"containers": [{"name": "engine", "image": "x"}]}
    with client_of(kubeconfig) as api:
        client.CoreV1Api(api).create_namespaced_pod(namespace, pod | {"apiVersion": "v1", "status": None})

    text = prfaas.works(status)
    assert re.search(r"dpool/chat +chat +0/\? +Unseen", text)
    assert re.search(r"ppool/long +chat +2/2 +Well +1f1f1f1f1f1f +Serving", text)
    assert re.search(r"proute/chat +dpool/chat", text)
    assert re.search(r"long-1 +ppool/long +Pending", text)


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_status_for_programs(prfaas: Prfaas, resources: Resources, form: str, read: Any) -> None:
    resources.create(minimal("DecodePool", "chat"))
    view = read(prfaas.works(status, "-o", form))
    assert view["pools"][0]["name"] == "chat"
    assert view["pools"][0]["health"] == "Unseen"
    assert view["operator"]["state"] in ("Absent", "Down", "Leading")


def test_a_hold_is_an_annotation_that_ends(prfaas: Prfaas, resources: Resources) -> None:
    before = resources.create(minimal("PrefillPool", "long"))
    said = prfaas.works(hold, "pool/long", "--replicas", "8", "--for", "2h", "--reason", "launch")
    assert "ppool/long" in said
    assert "is held at 8 until" in said

    stored = resources.get("PrefillPool", "long")
    value = annotation(stored, ANNOTATION_HOLD)
    assert (value["replicas"], value["reason"]) == (8, "launch")
    left = datetime.fromisoformat(value["until"]) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=50) < left <= timedelta(hours=2)
    assert stored["spec"] == before["spec"]
    assert MANAGER_CLI in [entry["manager"] for entry in stored["metadata"]["managedFields"]]
    assert "prfaas.io/hold is set and not in force yet" in prfaas.works(status)

    assert "is held no longer" in prfaas.works(hold, "ppool/long", "--release")
    assert annotation(resources.get("PrefillPool", "long"), ANNOTATION_HOLD) is None


def test_what_ends_is_reckoned_by_the_clusters_clock(
    prfaas: Prfaas, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    monkeypatch.setattr(KubeClient, "server_now", lambda _: there)
    resources.create(minimal("PrefillPool", "long"))
    assert "until 2040-01-02 05:04:05Z" in prfaas.works(hold, "ppool/long", "--replicas", "1", "--for", "2h")
    stored = resources.get("PrefillPool", "long")
    assert annotation(stored, ANNOTATION_HOLD)["until"] == "2040-01-02T05:04:05Z"
    assert yaml.safe_load(prfaas.works(status, "-o", "yaml"))["at"] == "2040-01-02T03:04:05Z"


def test_a_manifest_applied_again_leaves_the_hold(prfaas: Prfaas, resources: Resources) -> None:
    resources.apply(minimal("DecodePool", "chat"), "gitops")
    prfaas.works(hold, "dpool/chat", "--replicas", "0", "--for", "30m")
    stored = resources.apply(minimal("DecodePool", "chat"), "gitops", force=True)
    assert annotation(stored, ANNOTATION_HOLD)["replicas"] == 0


def test_one_name_of_both_kinds_has_to_be_told_apart(prfaas: Prfaas, resources: Resources) -> None:
    resources.create(minimal("PrefillPool", "both"))
    resources.create(minimal("DecodePool", "both"))
    assert "say ppool/ or dpool/" in prfaas.fails(hold, "pool/both", "--replicas", "1", "--for", "1h")
    prfaas.works(hold, "dpool/both", "--replicas", "1", "--for", "1h")
    assert annotation(resources.get("PrefillPool", "both"), ANNOTATION_HOLD) is None
    assert annotation(resources.get("DecodePool", "both"), ANNOTATION_HOLD) is not None


def test_a_route_is_switched_to_local_and_back(prfaas: Prfaas, resources: Resources) -> None:
    resources.create(minimal("PrefillRoute", "chat"))
    assert "prefills locally until" in prfaas.works(route, "chat", "--local-only", "--for", "1h")
    value = annotation(resources.get("PrefillRoute", "chat"), ANNOTATION_LOCAL_ONLY)
    assert set(value) == {"until"}
    assert "as its manifest says" in prfaas.works(route, "proute/chat", "--normal")
    assert annotation(resources.get("PrefillRoute", "chat"), ANNOTATION_LOCAL_ONLY) is None


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (hold, ["ppool/long"], "give --replicas and --for, or --release"),
        (hold, ["ppool/long", "--replicas", "1"], "give --replicas and --for, or --release"),
        (hold, ["ppool/long", "--release", "--for", "1h"], "leave out --replicas and --for"),
        (hold, ["long", "--release"], "write ppool/NAME, dpool/NAME or pool/NAME"),
        (hold, ["deployment/long", "--release"], "write ppool/NAME, dpool/NAME or pool/NAME"),
        (hold, ["ppool/long", "--replicas", "1", "--for", "soon"], "is not a duration such as 2h"),
        (hold, ["ppool/long", "--replicas", "1", "--for", "59s"], "is not between 1m and 30d"),
        (hold, ["ppool/long", "--replicas", "1", "--for", "31d"], "is not between 1m and 30d"),
        (hold, ["ppool/long", "--replicas", "-1", "--for", "1h"], "is not in the range"),
        (route, ["chat"], "give --local-only with --for, or --normal"),
        (route, ["chat", "--local-only"], "--for belongs to --local-only"),
        (route, ["chat", "--normal", "--for", "1h"], "--for belongs to --local-only"),
        (status, ["-A"], "exclude each other"),
        (status, ["--watch", "-o", "json"], "leave out --output"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_asked(
    tmp_path: Path, command: Command, arguments: list[str], says: str
) -> None:
    output = Prfaas(tmp_path / "none", "default").fails(command, *arguments, code=2)
    assert says in " ".join(output.replace("│", " ").split())


def test_no_such_pool(prfaas: Prfaas, namespace: str) -> None:
    said = prfaas.fails(hold, "pool/nope", "--release")
    assert f"no PrefillPool or DecodePool nope in namespace {namespace}" in said


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none"
    assert "--kubeconfig or KUBECONFIG" in Prfaas(missing, "default").fails(status)
    monkeypatch.setenv("KUBECONFIG", str(missing))
    result = CliRunner().invoke(status, [])
    assert result.exit_code == 1
    assert f"KUBECONFIG is {missing}, and no such file is there" in result.output


def test_no_api_server(kubeconfig: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(yaml.safe_dump(document))
    said = Prfaas(elsewhere, "default").fails(hold, "ppool/long", "--release")
    assert "The API server cannot be reached" in said
    assert "--context" in said


def test_not_allowed(api_server: Any, namespace: str) -> None:
    said = Prfaas(api_server.kubeconfig_of("nobody"), namespace).fails(status)
    assert "Not allowed" in said
    assert "aggregate to view and edit" in said


@pytest.mark.timeout(240)
def test_a_cluster_without_the_crds(own_api_server: Any) -> None:
    with client_of(own_api_server.kubeconfig) as api:
        extensions = client.ApiextensionsV1Api(api)
        for definition in extensions.list_custom_resource_definition().items:
            extensions.delete_custom_resource_definition(definition.metadata.name)
        served = client.ApisApi(api)
        eventually(
            lambda: "prfaas.io" not in [group.name for group in served.get_api_versions().groups],
            within_seconds=DISCOVERY_SECONDS,
        )
    without = Prfaas(own_api_server.kubeconfig, "default")
    for said in (without.fails(status), without.fails(hold, "pool/long", "--release")):
        assert "its CRDs are not installed" in said
        assert "prfaas crds | kubectl apply --server-side" in said


def test_the_namespace_is_that_of_the_context(kubeconfig: Path, namespace: str, tmp_path: Path) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    document["contexts"][0]["context"]["namespace"] = namespace
    own = tmp_path / "own"
    own.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(status, ["--kubeconfig", str(own)])
    assert f"in namespace {namespace}." in result.output


def test_the_plug_in_of_kubectl_calls_itself_so() -> None:
    plug_in = Path(sys.executable).with_name("kubectl-prfaas")
    said = subprocess.run([plug_in, "--help"], check=True, capture_output=True, text=True, timeout=30).stdout
    assert said.startswith("Usage: kubectl prfaas [OPTIONS] COMMAND")
    assert re.search(r"^  status +Regions, links, pools, routes and pods on one", said, re.MULTILINE)


def test_watching_shows_changes_until_interrupted(
    kubeconfig: Path, namespace: str, resources: Resources
) -> None:
    ours, theirs = pty.openpty()
    command = [
        str(Path(sys.executable).with_name("prfaas")),
        *("status", "--watch", "--interval", "0.5", "--kubeconfig", str(kubeconfig), "-n", namespace),
    ]
    shown = bytearray()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        os.set_blocking(ours, False)

        def shows(text: bytes) -> bool:
            with suppress(BlockingIOError):
                shown.extend(os.read(ours, 1 << 16))
            return text in shown

        eventually(lambda: shows(b"No pools and no routes"), within_seconds=WATCH_SECONDS)
        resources.create(minimal("DecodePool", "chat"))
        eventually(lambda: shows(b"dpool/chat"), within_seconds=WATCH_SECONDS)
        process.send_signal(signal.SIGINT)

        def ended() -> bool:
            # A terminal that nobody reads would keep it from ending.
            with suppress(OSError):
                shown.extend(os.read(ours, 1 << 16))
            return process.poll() is not None

        eventually(ended, within_seconds=WATCH_SECONDS)
    os.close(ours)
    assert process.returncode == 0
    assert b"Traceback" not in shown
