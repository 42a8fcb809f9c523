"""Two regions: clusters of their own, a WAN between them, and prfaas in both. `eu` is the hub and decodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prfaas_cluster import engine_pods, providers
from prfaas_cluster.bare import wan as cluster_wan
from prfaas_wan import Network, WanConfig
from tests.e2e.stage import DECODE, PREFILL, SERVING, THRESHOLD_TOKENS, Stage, until

HUB, MEMBER = "fed-eu", "fed-us"
REGION_OF = {HUB: "eu", MEMBER: "us"}
RATE_BITS_PER_SECOND = 1e9
RTT_SECONDS = 0.03
COMMAND_SECONDS = 120.0
ROTATION_SECONDS = 300.0
# Longer than kubelets need to bring a new Secret into pods.
ROTATION_STEP_SECONDS = 30
PEER_PORT = 7410
# The decode engine's own region answers while the other one is away.
NEW_REQUESTS_SECONDS = 10.0


@dataclass(frozen=True)
class Regions:
    """Both of them.

    Attributes:
        eu: the hub, whose decode pool answers clients.
        us: the region that prefills, which takes what is wanted from the hub.
        wan: between them; `eu` is its host a.
    """

    eu: Stage
    us: Stage
    wan: Network

    def prfaas(self, stage: Stage, *arguments: str) -> str:
        """Run a command as an engineer there would. Raises RuntimeError with its words when it fails."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "prfaas"), *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={
                "KUBECONFIG": str(stage.record.kubeconfig),
                "PATH": "/usr/bin:/bin",
                "HOME": str(Path.home()),
            },
        )
        if done.returncode != 0:
            raise RuntimeError(f"prfaas {' '.join(arguments)}: {done.stdout}\n{done.stderr.strip()}")
        return done.stdout

    def region(self, stage: Stage, name: str) -> dict[str, Any]:
        """A Region as a cluster has it."""
        found: dict[str, Any] = stage.kubectl.get("region", name)
        return found

    def region_condition(self, stage: Stage, name: str, type_: str) -> dict[str, Any]:
        """One condition of a Region; empty when there is none."""
        conditions = self.region(stage, name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    def apply_fleet(self) -> None:
        """In the hub alone: a prefill pool placed in us, a decode pool placed in eu, and the route."""
        prefill = engine_pods.readable(engine_pods.pod_template(self.us.host))
        decode = engine_pods.pod_template(self.eu.host)
        self.eu.apply(
            engine_pods.pool(
                "PrefillPool",
                PREFILL,
                SERVING,
                prefill,
                scaling={"mode": "External"},
                **engine_pods.placement("us"),
            ),
            engine_pods.pool("DecodePool", DECODE, SERVING, decode, **engine_pods.placement("eu")),
            engine_pods.route(DECODE, SERVING, DECODE, PREFILL, THRESHOLD_TOKENS),
        )

    def federate(self) -> None:
        """As the README has it: both installed and made known to one another, us taking from eu."""
        for stage, region in ((self.eu, "eu"), (self.us, "us")):
            stage.values["region"] = region
            stage.values["gateway"] |= {"replicas": 1, "peer": {"enabled": True, "type": "ClusterIP"}}
            stage.values["operator"] |= {"replicas": 1, "config": {"rotation_seconds": ROTATION_STEP_SECONDS}}
            stage.install()
            stage.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SERVING}})
        for stage in (self.eu, self.us):
            self.prfaas(stage, "federation", "init", "--peer", peer_address(stage))
        self.prfaas(self.us, "federation", "join", "--hub-kubeconfig", str(self.eu.record.kubeconfig))
        self.us.install(
            federation={
                "source": "Hub",
                "allowedNamespaces": [SERVING],
                "allowedHostPaths": [str(folder) for folder in self.us.host.folders()],
            }
        )

    def rotate_authority(self, stage: Stage) -> None:
        """Replace a region's authority, and wait until the new one alone is believed."""
        before = self.region(self.eu, REGION_OF[stage.record.name])["spec"]["trustBundle"]
        self.prfaas(stage, "federation", "rotate-ca")

        def done() -> bool:
            bundle = self.publish_bundle(stage)
            return bundle.count("BEGIN CERTIFICATE") == 1 and bundle != before

        until(done, "the new authority stands alone", ROTATION_SECONDS)

    def publish_bundle(self, stage: Stage) -> str:
        """Bring the region's present bundle into its own Region and the hub's; others have it from there."""
        bundle = self.prfaas(stage, "federation", "rotate-ca", "--bundle")
        for each in (stage, self.eu):
            self.patch_bundle(each, REGION_OF[stage.record.name], bundle)
        return bundle

    def patch_bundle(self, stage: Stage, region: str, bundle: str) -> None:
        """Change whom a cluster believes to speak for a region."""
        patch = json.dumps({"spec": {"trustBundle": bundle}})
        stage.kubectl("patch", "region", region, "--type=merge", f"--patch={patch}")

    def until_remote_is_known(self) -> None:
        """Wait until eu's gateways know a ready prefill engine of us."""
        until(lambda: any(self.remote_pods()), "eu's gateways know a prefill engine of us")

    def remote_pods(self) -> Iterator[dict[str, Any]]:
        """What eu's gateways know of us."""
        for answer in self.eu.gateway_sees("/v1/regions"):
            for region in answer["regions"]:
                for pool in region.get("pools", ()):
                    if region["name"] == "us" and pool.get("ready"):
                        yield pool


@contextmanager
def two_regions() -> Iterator[Regions]:
    """Brings both clusters up, joins them, installs prfaas and federates them, as the guide says."""
    records = {name: providers.up(name, "bare") for name in (HUB, MEMBER)}
    config = WanConfig.symmetric(rate_bits_per_second=RATE_BITS_PER_SECOND, rtt_seconds=RTT_SECONDS)
    network = cluster_wan.join(records[HUB], records[MEMBER], config)
    try:
        eu, us = (Stage.prepare(records[name]) for name in (HUB, MEMBER))
        regions = Regions(eu, us, network)
        regions.federate()
        yield regions
    finally:
        network.close()
        cluster_wan.part(HUB, MEMBER)
        for name in records:
            providers.down(name)


def peer_address(stage: Stage) -> str:
    """Where gateways of the other region reach this one's: the address of their Service."""
    services = stage.kubectl.get("services", "--namespace=prfaas")["items"]
    ip = next(
        each["spec"]["clusterIP"]
        for each in services
        if any(port["port"] == PEER_PORT for port in each["spec"]["ports"])
    )
    return f"{ip}:{PEER_PORT}"


def document(text: str) -> Any:
    """JSON of a command's output."""
    return json.loads(text)
