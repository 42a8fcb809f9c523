"""A server of external.metrics.k8s.io in this process, behind an APIService like an adapter of Prometheus."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prfaas_cluster.bare.cluster import layout_of
from prfaas_cluster.pki import Authority
from tests.e2e.stage import Stage, until

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
NAMESPACE, SERVICE = "kube-system", "test-metrics"
REQUEST_SECONDS = 10.0


class Metrics:
    """What the server answers: one value by the metric's name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, int] = {}

    def __setitem__(self, metric: str, value: int) -> None:
        with self._lock:
            self._values[metric] = value

    def answer(self, path: str) -> dict[str, Any] | None:
        """The body for a path of the API; None: there is nothing."""
        root = f"/apis/{GROUP}/{VERSION}"
        if path == root:
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [],
            }
        metric = path.rpartition("/")[2]
        with self._lock:
            value = self._values.get(metric)
        if not path.startswith(f"{root}/namespaces/") or value is None:
            return None
        item = {
            "metricName": metric,
            "metricLabels": {},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": str(value),
        }
        return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "items": [item]}


@contextmanager
def external_metrics(stage: Stage, folder: Path) -> Iterator[Metrics]:
    """Serve metrics to the cluster's autoscalers until the block ends. Only a bare cluster reaches this."""
    host = str(layout_of(stage.record).host_address)
    authority = Authority.new("test-metrics")
    name = f"{SERVICE}.{NAMESPACE}.svc"
    certificate, key = authority.server(name, [name]).write(folder, "metrics")
    metrics = Metrics()
    with _serving(metrics, host, certificate, key) as port:
        objects = _objects(host, port, authority.pem)
        stage.apply(*objects)
        try:
            until(lambda: _is_available(stage), "the API server reaches the metrics", within_seconds=60)
            yield metrics
        finally:
            # An APIService that nobody answers for hinders the deletion of every namespace.
            for each in objects:
                place = [f"--namespace={NAMESPACE}"] if "namespace" in each["metadata"] else []
                stage.kubectl("delete", each["kind"], each["metadata"]["name"], *place)


@contextmanager
def _serving(metrics: Metrics, host: str, certificate: Path, key: Path) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            found = metrics.answer(self.path.partition("?")[0])
            body = json.dumps(found if found is not None else {"kind": "Status", "code": 404}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
            """Nobody reads it."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer((host, 0), Handler) as server:
        # The thread of a connection shakes hands, not the one that accepts.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(REQUEST_SECONDS)


def _objects(host: str, port: int, trust: bytes) -> list[dict[str, Any]]:
    about = {"name": SERVICE, "namespace": NAMESPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": about,
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**about, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": SERVICE, "namespace": NAMESPACE},
                "caBundle": base64.b64encode(trust).decode(),
            },
        },
    ]


def _is_available(stage: Stage) -> bool:
    found = stage.kubectl.get("apiservice", f"{VERSION}.{GROUP}")
    conditions = {each["type"]: each["status"] for each in found.get("status", {}).get("conditions", [])}
    return conditions.get("Available") == "True"
