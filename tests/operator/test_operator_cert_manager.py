"""Certificates that cert-manager issues: a real API server with cert-manager's own kind, and a stand-in that
signs.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from prfaas.api import keys
from prfaas.certificate_builder import KeyPair, self_signed_authority, signed_leaf, uri
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import (
    CERTIFICATES,
    DEFINITIONS,
    DEPLOYMENTS,
    NAMESPACES,
    PREFILL_POOLS,
    SECRETS,
    Object,
)
from prfaas_operator.config import OperatorConfig
from prfaas_operator.runtime.certificates import authority_id
from prfaas_operator.runtime.fleet import FLEET
from prfaas_operator.runtime.planning_adapter import Planning
from tests.helpers import eventually_async
from tests.operator.runtime_world import client_of, config_for, running

if TYPE_CHECKING:
    from prfaas_cluster.apiserver import ApiServer

DEFINITION = Path(__file__).with_name("crd-certificates.yaml")
NAMESPACE = "serving"
NAME = keys.tls_secret(keys.PREFILL_POOL, "long")
IDENTITY = f"spiffe://example.org/region/eu/ns/{NAMESPACE}/pool/PrefillPool/long"
GATEWAY = f"spiffe://example.org/region/eu/ns/{NAMESPACE}/gateway/prfaas-gateway"


def pool() -> Object:
    limits = {"memory": "16Gi", "cpu": "4"}
    engine = {
        "name": "engine",
        "image": "example.org/vllm:1",
        "resources": {"limits": limits, "requests": limits},
    }
    return {
        "apiVersion": keys.API_VERSION,
        "kind": "PrefillPool",
        "metadata": {"namespace": NAMESPACE, "name": "long"},
        "spec": {
            "model": {"name": "chat"},
            "engine": {"type": "VLLM"},
            "replicas": 1,
            "workload": {
                "template": {"spec": {"terminationGracePeriodSeconds": 600, "containers": [engine]}}
            },
        },
    }


def config_with_issuer(kubeconfig: Path) -> OperatorConfig:
    return config_for(kubeconfig, NAMESPACE, certificates={"issuer_ref": {"name": "region-eu"}})


@pytest.fixture(autouse=True)
def no_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own handler of a log file writes in the loop, which the rules for tests do not allow."""
    for name in ("prfaas.kube", "prfaas_operator"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)


@dataclass
class StandIn:
    """Signs what Certificates ask for and writes Secrets, as cert-manager with an issuer of kind CA does.

    Attributes:
        gives_authority: whether Secrets have `ca.crt`; those of ACME issuers have none.
    """

    client: KubeClient
    authority: KeyPair = field(
        default_factory=lambda: self_signed_authority(
            "issuer", starts=datetime.now(UTC) - timedelta(minutes=5), valid=timedelta(days=1)
        )
    )
    gives_authority: bool = True
    refuses: str = ""

    async def run(self) -> None:
        while True:
            try:
                for body in await self.client.list(CERTIFICATES, NAMESPACE):
                    await self._issue(body)
            except errors.KubeError:
                # The kind is not served yet, or the object has just changed.
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.05)

    async def _issue(self, body: Object) -> None:
        about, spec = body["metadata"], body["spec"]
        ready = not self.refuses
        if ready:
            await self._write(about["name"], spec)
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "Ready" if ready else "Failed",
            "message": self.refuses or "Certificate is up to date and has not expired",
            "observedGeneration": about["generation"],
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        status: Object = {"metadata": {"namespace": NAMESPACE, "name": about["name"]}}
        status["status"] = {"conditions": [condition]}
        await self.client.apply_status(CERTIFICATES, status, field_manager="stand-in")

    async def _write(self, name: str, spec: dict[str, Any]) -> None:
        try:
            stored = (await self.client.get(SECRETS, NAMESPACE, spec["secretName"])).get("data") or {}
        except errors.NotFound:
            stored = {}
        authority = _encoded(self.authority.certificate_pem) if self.gives_authority else ""
        if stored and stored.get("ca.crt", "") == authority:
            return
        now = datetime.now(UTC)
        leaf = signed_leaf(
            self.authority,
            starts=now - timedelta(minutes=5),
            ends=now + timedelta(hours=2),
            names=[uri(each) for each in spec["uris"]],
        )
        data = {"tls.crt": _encoded(leaf.certificate_pem), "tls.key": _encoded(leaf.key_pem)}
        if authority:
            data["ca.crt"] = authority
        metadata = {
            "namespace": NAMESPACE,
            "name": spec["secretName"],
            "labels": spec["secretTemplate"]["labels"],
            "annotations": {"cert-manager.io/certificate-name": name},
        }
        manifest: Object = {"metadata": metadata, "type": "kubernetes.io/tls", "data": data}
        await self.client.apply(SECRETS, manifest, field_manager="stand-in", force=True)


@asynccontextmanager
async def stand_in(client: KubeClient) -> AsyncIterator[StandIn]:
    signer = StandIn(client)
    task = asyncio.create_task(signer.run())
    try:
        yield signer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def condition(client: KubeClient, type_: str) -> tuple[str, str, str]:
    body = await client.get(PREFILL_POOLS, NAMESPACE, "long")
    for each in (body.get("status") or {}).get("conditions") or ():
        if each["type"] == type_:
            return each["status"], each["reason"], each["message"]
    return "", "", ""


async def is_so(client: KubeClient, type_: str, status: str, reason: str, *words: str) -> bool:
    found = await condition(client, type_)
    return found[:2] == (status, reason) and all(word in found[2] for word in words)


async def deployments(client: KubeClient) -> int:
    return len(await client.list(DEPLOYMENTS, NAMESPACE))


async def define(client: KubeClient) -> None:
    await client.create(DEFINITIONS, yaml.safe_load(DEFINITION.read_text()))


async def start(client: KubeClient) -> None:
    await client.create(
        NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    )


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def planning(config: OperatorConfig) -> Planning:
    return Planning(
        config.injection_settings(), gateway_namespace=NAMESPACE, gateway_name=config.gateway_name
    )


async def test_without_cert_manager_a_pool_says_what_to_do_and_comes_up_once_it_is_there(
    own_api_server: ApiServer,
) -> None:
    config = config_with_issuer(own_api_server.kubeconfig)
    async with client_of(own_api_server.kubeconfig) as client:
        await start(client)
        await client.create(PREFILL_POOLS, pool())
        async with running(config, planning(config)) as world:
            await eventually_async(
                lambda: is_so(
                    client, "CertificateReady", "False", "CertManagerMissing", "Install cert-manager"
                )
            )
            assert await is_so(client, "Stalled", "True", "CertManagerMissing", "certificates.issuerRef")
            assert await deployments(client) == 0
            # Nothing of the operator's own signs in its place.
            with pytest.raises(errors.NotFound):
                await client.get(SECRETS, NAMESPACE, keys.CA_SECRET)
            await define(client)
            async with stand_in(client):
                body = await client.get(PREFILL_POOLS, NAMESPACE, "long")
                note = {"metadata": {"annotations": {"example.org/look": "again"}}, "spec": {"replicas": 2}}
                await client.patch(
                    PREFILL_POOLS, NAMESPACE, body["metadata"]["name"], note, field_manager="me"
                )
                await eventually_async(
                    lambda: is_so(client, "CertificateReady", "True", "CertificateIssued", "region-eu")
                )
                await eventually_async(lambda: _one(client))
            await world.stop()


async def _one(client: KubeClient) -> bool:
    return await deployments(client) == 1


async def test_cert_manager_issues_for_pools_and_gateways_and_the_operator_writes_no_secret(
    own_api_server: ApiServer,
) -> None:
    config = config_with_issuer(own_api_server.kubeconfig)
    async with client_of(own_api_server.kubeconfig) as client:
        await start(client)
        await define(client)
        await client.create(PREFILL_POOLS, pool())
        async with running(config, planning(config)) as world, stand_in(client) as signer:
            signer.refuses = "the vault is sealed"
            # What cert-manager says is what the pool says; no pod is made that could not start.
            await eventually_async(
                lambda: is_so(
                    client, "CertificateReady", "False", "CertificatePending", "the vault is sealed"
                )
            )
            assert await deployments(client) == 0
            signer.refuses, signer.gives_authority = "", False
            await eventually_async(
                lambda: is_so(client, "CertificateReady", "False", "CertificateWrong", "ca.crt")
            )
            assert await deployments(client) == 0
            signer.gives_authority = True
            await eventually_async(lambda: is_so(client, "CertificateReady", "True", "CertificateIssued"))
            await eventually_async(lambda: _one(client))
            asked = await client.get(CERTIFICATES, NAMESPACE, NAME)
            assert asked["spec"]["uris"] == [IDENTITY]
            assert asked["spec"]["issuerRef"] == {
                "name": "region-eu", "kind": "ClusterIssuer", "group": "cert-manager.io"
            }  # fmt: skip
            (owner,) = asked["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["name"]) == ("PrefillPool", "long")
            secret = await client.get(SECRETS, NAMESPACE, NAME)
            managers = {each["manager"] for each in secret["metadata"]["managedFields"]}
            assert managers == {"stand-in"}

            # The gateways' certificate, and whom the own Region has to trust.
            world.operator.enqueue(FLEET)
            await eventually_async(lambda: _asked_for_gateways(client))
            await eventually_async(lambda: _is_known(world.operator._fleet.signing_id, signer))

            # Somebody changes what is asked for: it is put back.
            await client.patch(
                CERTIFICATES,
                NAMESPACE,
                NAME,
                {"spec": {"uris": ["spiffe://evil/"]}},
                field_manager="somebody",
            )
            await eventually_async(lambda: _asks_for(client, IDENTITY))

            # Another authority of the issuer's: the Secret is taken as it comes, nothing is rolled.
            signer.authority = StandIn(client).authority
            await eventually_async(
                lambda: _is_known(world.operator._fleet.signing_id, signer, world.operator)
            )
            await eventually_async(lambda: is_so(client, "CertificateReady", "True", "CertificateIssued"))
            await world.quiet()
            assert await deployments(client) == 1
            await world.stop()


async def _asked_for_gateways(client: KubeClient) -> bool:
    try:
        body = await client.get(CERTIFICATES, NAMESPACE, keys.GATEWAY_TLS_SECRET)
    except errors.NotFound:
        return False
    return bool(body["spec"]["uris"] == [GATEWAY])


async def _is_known(signing_id: Any, signer: StandIn, operator: Any = None) -> bool:
    if operator is not None:
        operator.enqueue(FLEET)
    return bool(signing_id() == authority_id(signer.authority.certificate_pem))


async def _asks_for(client: KubeClient, identity: str) -> bool:
    body = await client.get(CERTIFICATES, NAMESPACE, NAME)
    return bool(body["spec"]["uris"] == [identity])
