"""The API server that other tests are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes import client

from prfaas_cluster.apiserver import ApiServer, why_not_ready
from prfaas_cluster.errors import ClusterError
from tests.cluster_fixtures import client_of
from tests.helpers import eventually

seen: list[str] = []


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_namespace_of_its_own(kubeconfig: Path, namespace: str, turn: int) -> None:
    assert namespace not in seen
    seen.append(namespace)
    with client_of(kubeconfig) as api:
        core = client.CoreV1Api(api)
        assert core.list_namespaced_config_map(namespace).items == []
        core.create_namespaced_config_map(
            namespace, client.V1ConfigMap(metadata={"name": "mine"}, data={"turn": str(turn)})
        )
        others = [each for each in seen if each != namespace]
        assert [core.list_namespaced_config_map(each).items for each in others] == [[]] * len(others)


def test_pods_are_accepted_without_a_service_account(kubeconfig: Path, namespace: str) -> None:
    with client_of(kubeconfig) as api:
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
        assert client.CoreV1Api(api).create_namespaced_pod(namespace, pod).spec.containers[0].name == "c"


def test_a_user_has_the_rights_that_rbac_gives_it(api_server: ApiServer, namespace: str) -> None:
    with client_of(api_server.kubeconfig_of("bob", ["readers"])) as bob:
        core = client.CoreV1Api(bob)
        with pytest.raises(client.ApiException) as refused:
            core.list_namespaced_config_map(namespace)
        assert refused.value.status == 403
        with client_of(api_server.kubeconfig) as admin:
            rights = client.RbacAuthorizationV1Api(admin)
            rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
            rights.create_namespaced_role(namespace, {"metadata": {"name": "reader"}, "rules": rules})
            binding = {
                "metadata": {"name": "reader"},
                "subjects": [{"kind": "Group", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"}],
                "roleRef": {"kind": "Role", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"},
            }
            rights.create_namespaced_role_binding(namespace, binding)

        def may() -> bool:
            try:
                core.list_namespaced_config_map(namespace)
            except client.ApiException:
                return False
            return True

        eventually(may, what="the group's role is in force")


def test_data_and_address_survive_a_restart_and_a_crash(own_api_server: ApiServer) -> None:
    address, before = own_api_server.url, own_api_server.process_ids()
    with client_of(own_api_server.kubeconfig) as api:
        core = client.CoreV1Api(api)
        core.create_namespaced_config_map("default", {"metadata": {"name": "kept"}})
        own_api_server.restart()
        assert core.read_namespaced_config_map("kept", "default").metadata.name == "kept"
        own_api_server.server.kill()
        own_api_server.etcd.kill()
        own_api_server.start()
        assert core.read_namespaced_config_map("kept", "default").metadata.name == "kept"
    assert own_api_server.url == address
    assert not before & own_api_server.process_ids()


def test_a_paused_server_is_silent_and_goes_on_later(own_api_server: ApiServer) -> None:
    own_api_server.pause()
    assert why_not_ready(own_api_server.url, own_api_server._probing) is not None
    own_api_server.resume()
    own_api_server.wait_until_ready()


@pytest.mark.cluster
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ClusterError, match=r"kube-apiserver ended with status 1: .*unknown-flag.*kube-apiserver\.log"
        ),
        ApiServer.running(tmp_path, arguments={"unknown-flag": "1"}),
    ):
        pass
