"""A real API server for tests: one per run, started when the first test asks, and a namespace for each test.

Fixtures:
    api_server: an `ApiServer` with the project's CRDs; it can be restarted, paused and asked for users of few
        rights. A test leaves it running. Its pods need no ServiceAccount, and only it and etcd are there.
    kubeconfig: path of the administrator's kubeconfig, a `Path`.
    namespace: the name of a namespace that the test has for itself; its objects are deleted afterwards.
    real_cluster: the `Record` of a cluster with nodes, for tests marked `e2e`; tests share it.
    own_api_server: an `ApiServer` for one test alone, for those that break it or need other flags (give them
        with `@pytest.mark.api_server_flags({"max-requests-inflight": "5"})`). It takes some 3 s.

Like envtest: KUBEBUILDER_ASSETS names a folder with the programs, and USE_EXISTING_CLUSTER=true takes the
cluster of KUBECONFIG, where tests that restart or pause the server are skipped. Otherwise the project builds
the programs (`make kubernetes`).
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

    from prfaas_cluster.apiserver import ApiServer
    from prfaas_cluster.record import Record

CRD_FOLDER = Path(__file__).parents[1] / "crds"
GROUP = "prfaas.io"
ESTABLISHED_SECONDS = 20.0
CALL_SECONDS = 20.0
_FIXTURES = {"api_server", "own_api_server", "kubeconfig", "namespace"}
_NEEDED = ("etcd", "kube-apiserver")
_LABEL = "prfaas.io/test-run"
# The servers of this run, which outlive single tests; the check for processes left behind asks for their ids.
_running: list[ApiServer] = []


class ExistingServer:
    """A cluster that was there before, used through its kubeconfig alone."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(f"USE_EXISTING_CLUSTER: `{name}` of an API server needs one that the tests started")


def server_process_ids() -> set[int]:
    """Processes that the run's servers consist of at this moment."""
    return {pid for server in _running for pid in server.process_ids()}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "api_server_flags(flags): flags of kube-apiserver for own_api_server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses these fixtures, and skip it with a reason where there is nothing to start."""
    for item in items:
        if _FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)
    using = [item for item in items if item.get_closest_marker("cluster")]
    if not using:
        return
    reason = _why_none()
    if reason is None:
        return
    if os.environ.get("PRFAAS_REQUIRE_CLUSTER") == "1":
        raise pytest.UsageError(f"PRFAAS_REQUIRE_CLUSTER is set, but {reason}")
    for item in using:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer | ExistingServer]:
    if _uses_existing():
        existing = ExistingServer(Path(os.environ["KUBECONFIG"]))
        _install_crds(existing.kubeconfig)
        yield existing
        return
    from prfaas_cluster.apiserver import ApiServer

    yield from _serve(ApiServer(tmp_path_factory.mktemp("api-server")))


@pytest.fixture
def own_api_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiServer]:
    from prfaas_cluster.apiserver import ApiServer

    marker = request.node.get_closest_marker("api_server_flags")
    folder = tmp_path / "api-server"
    folder.mkdir()
    yield from _serve(ApiServer(folder, arguments=marker.args[0] if marker else None))


@pytest.fixture(scope="session")
def real_cluster() -> Record:
    """The cluster that `make e2e` brought up, with nodes, or one that PRFAAS_CLUSTER_NAME names."""
    from prfaas_cluster import providers

    name = os.environ.get("PRFAAS_CLUSTER_NAME")
    if not name:
        pytest.skip("no cluster is named by PRFAAS_CLUSTER_NAME: make e2e, or prfaas cluster up and env")
    return providers.known(name)


@pytest.fixture
def kubeconfig(api_server: ApiServer | ExistingServer) -> Path:
    return api_server.kubeconfig


@pytest.fixture
def namespace(kubeconfig: Path) -> Iterator[str]:
    from kubernetes import client

    name = f"test-{secrets.token_hex(4)}"
    with client_of(kubeconfig) as api:
        core = client.CoreV1Api(api)
        body = client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels={_LABEL: "true"}))
        core.create_namespace(body, _request_timeout=CALL_SECONDS)
        yield name
        _empty(api, name)
        # Without a namespace controller it stays, empty and Terminating, which hinders nobody.
        core.delete_namespace(name, _request_timeout=CALL_SECONDS)


def client_of(kubeconfig: Path) -> ApiClient:
    """A client for set-up and checks that are not what a test is about. Close it."""
    from kubernetes import client, config

    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    return client.ApiClient(configuration)


def _serve(server: ApiServer) -> Iterator[ApiServer]:
    _running.append(server)
    try:
        server.start()
        _install_crds(server.kubeconfig)
        yield server
    finally:
        server.stop()
        _running.remove(server)


def _install_crds(kubeconfig: Path) -> None:
    from kubernetes import client

    from tests.helpers import eventually

    definitions = _definitions()
    if not definitions:
        return
    with client_of(kubeconfig) as api:
        extensions = client.ApiextensionsV1Api(api)
        for definition in definitions:
            extensions.patch_custom_resource_definition(
                definition["metadata"]["name"],
                definition,
                field_manager="prfaas-tests",
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=CALL_SECONDS,
            )

        def all_served() -> bool:
            names = [definition["metadata"]["name"] for definition in definitions]
            return all(_is_established(extensions.read_custom_resource_definition(name)) for name in names)

        eventually(all_served, within_seconds=ESTABLISHED_SECONDS, what="CRDs are Established")


def _definitions() -> list[dict[str, Any]]:
    import yaml

    documents: list[dict[str, Any]] = []
    for path in sorted(CRD_FOLDER.glob("*.yaml")):
        documents += [document for document in yaml.safe_load_all(path.read_text()) if document]
    return [document for document in documents if document["kind"] == "CustomResourceDefinition"]


def _is_established(definition: Any) -> bool:
    conditions = definition.status.conditions or []
    return any(each.type == "Established" and each.status == "True" for each in conditions)


def _empty(api: ApiClient, namespace: str) -> None:
    """Delete what tests make, so that a later test's watch of all namespaces sees less of it."""
    from kubernetes import client

    custom = client.CustomObjectsApi(api)
    for plural in _own_plurals(api):
        found = custom.list_namespaced_custom_object(GROUP, "v1alpha1", namespace, plural)
        for each in found["items"]:
            name = each["metadata"]["name"]
            if each["metadata"].get("finalizers"):
                nothing = {"metadata": {"finalizers": None}}
                custom.patch_namespaced_custom_object(
                    GROUP,
                    "v1alpha1",
                    namespace,
                    plural,
                    name,
                    nothing,
                    _content_type="application/merge-patch+json",
                )
        custom.delete_collection_namespaced_custom_object(GROUP, "v1alpha1", namespace, plural)
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    deletions: Sequence[Callable[..., Any]] = (
        apps.delete_collection_namespaced_deployment,
        apps.delete_collection_namespaced_replica_set,
        client.PolicyV1Api(api).delete_collection_namespaced_pod_disruption_budget,
        client.AutoscalingV2Api(api).delete_collection_namespaced_horizontal_pod_autoscaler,
        client.CoordinationV1Api(api).delete_collection_namespaced_lease,
        core.delete_collection_namespaced_config_map,
        core.delete_collection_namespaced_secret,
    )
    for delete in deletions:
        delete(namespace, propagation_policy="Background", _request_timeout=CALL_SECONDS)
    core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0, _request_timeout=CALL_SECONDS)


def _own_plurals(api: ApiClient) -> list[str]:
    from kubernetes import client

    try:
        resources = client.CustomObjectsApi(api).get_api_resources(GROUP, "v1alpha1").resources
    except client.ApiException as error:
        if error.status != 404:
            raise
        return []
    return [each.name for each in resources if "/" not in each.name and each.namespaced]


def _uses_existing() -> bool:
    return os.environ.get("USE_EXISTING_CLUSTER", "").lower() in ("1", "true")


def _why_none() -> str | None:
    for package in ("prfaas_cluster", "kubernetes", "cryptography"):
        if importlib.util.find_spec(package) is None:
            return f"a real API server needs the Python package {package}: make venv"
    if _uses_existing():
        return None if os.environ.get("KUBECONFIG") else "USE_EXISTING_CLUSTER is set and KUBECONFIG is not"
    from prfaas_cluster import assets

    missing = [name for name in _NEEDED if not assets.program_is_there(name)]
    return f"{' and '.join(missing)} are not there: make kubernetes builds them" if missing else None
