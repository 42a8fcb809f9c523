"""The custom resources of one namespace through the official client, to test the API server's own rules."""

from __future__ import annotations

import json
from typing import Any

from kubernetes import client

from prfaas.api.crds.definitions import KINDS
from prfaas.api.keys import GROUP, VERSION

Object = dict[str, Any]
PLURALS = {kind.name: kind.plural for kind in KINDS}
CLUSTER_SCOPED = {kind.name for kind in KINDS if not kind.namespaced}
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Resources:
    """Verbs on plain dictionaries; errors are `ApiException`."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._objects = client.CustomObjectsApi(api)
        self._namespace = namespace

    def create(self, body: Object, **options: Any) -> Object:
        if body["kind"] in CLUSTER_SCOPED:
            place = GROUP, VERSION, PLURALS[body["kind"]]
            result: Object = self._objects.create_cluster_custom_object(*place, body, **options)
        else:
            result = self._objects.create_namespaced_custom_object(
                *self._place(body["kind"]), body, **options
            )
        return result

    def delete_cluster_scoped(self, kind: str, name: str) -> None:
        self._objects.delete_cluster_custom_object(GROUP, VERSION, PLURALS[kind], name)

    def get(self, kind: str, name: str) -> Object:
        result: Object = self._objects.get_namespaced_custom_object(*self._place(kind), name)
        return result

    def merge(self, kind: str, name: str, body: Object, **options: Any) -> Object:
        if kind in CLUSTER_SCOPED:
            result: Object = self._objects.patch_cluster_custom_object(
                GROUP, VERSION, PLURALS[kind], name, body, _content_type=MERGE, **options
            )
        else:
            result = self._objects.patch_namespaced_custom_object(
                *self._place(kind), name, body, _content_type=MERGE, **options
            )
        return result

    def apply(self, body: Object, manager: str, *, force: bool = False) -> Object:
        name = body["metadata"]["name"]
        self._objects.patch_namespaced_custom_object(
            *self._place(body["kind"]), name, body, field_manager=manager, force=force, _content_type=APPLY
        )
        # The official client knows no 201 for a patch, and gives nothing back then.
        return self.get(body["kind"], name)

    def apply_status(
        self, kind: str, name: str, status: Object, manager: str, *, force: bool = False
    ) -> Object:
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": {"name": name},
            "status": status,
        }
        result: Object = self._objects.patch_namespaced_custom_object_status(
            *self._place(kind), name, body, field_manager=manager, force=force, _content_type=APPLY
        )
        return result

    def scale(self, kind: str, name: str) -> Object:
        result: Object = self._objects.get_namespaced_custom_object_scale(*self._place(kind), name)
        return result

    def set_scale(self, kind: str, name: str, replicas: int) -> Object:
        result: Object = self._objects.patch_namespaced_custom_object_scale(
            *self._place(kind), name, {"spec": {"replicas": replicas}}, _content_type=MERGE
        )
        return result

    def table(self, kind: str, *, wide: bool) -> list[dict[str, Any]]:
        """The rows that `kubectl get` shows, as cells by column."""
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        api = self._objects.api_client
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self._namespace}/{PLURALS[kind]}"
        answer = api.call_api("GET", api.configuration.host + path, header_params={"Accept": accept})
        table = json.loads(answer.read())
        columns = [each for each in table["columnDefinitions"] if wide or each["priority"] == 0]
        shown = {each["name"] for each in columns}
        names = [each["name"] for each in table["columnDefinitions"]]
        return [
            {name: cell for name, cell in zip(names, row["cells"], strict=True) if name in shown}
            for row in table["rows"]
        ]

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self._namespace, PLURALS[kind]
