"""What the demo writes before it starts anything: certificates and the parts' configuration files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prfaas_demo import names
from prfaas_demo.certificates import Files, ca
from prfaas_demo.regions import Region

BLOCK_TOKENS = 32
MAX_MODEL_TOKENS = 8192
THRESHOLD_TOKENS = 256
ARENA = "512MiB"


@dataclass(frozen=True)
class Credentials:
    """Each region has an authority of its own; every part trusts both."""

    east_sidecar: Files
    west_sidecar: Files
    gateway: Files
    observer: Files


@dataclass(frozen=True)
class Sidecar:
    """One region's sidecar: its configuration file and the socket that its engine connects to."""

    config: Path
    engine_socket: Path


def write_credentials(folder: Path, east: Region, west: Region) -> Credentials:
    """New keys and certificates for one run."""
    authorities = {"east": ca("demo CA east"), "west": ca("demo CA west")}
    bundle = b"".join(authority.pem for authority in authorities.values())

    def issue(region: Region, identity: str, name: str) -> Files:
        hosts = [region.link_address, region.shell_address, "127.0.0.1"]
        files = authorities[region.name].leaf(identity, dict.fromkeys(hosts)).write(folder, name)
        files.ca.write_bytes(bundle)
        return files

    return Credentials(
        east_sidecar=issue(east, names.EAST_POOL, "east-sidecar"),
        west_sidecar=issue(west, names.WEST_POOL, "west-sidecar"),
        gateway=issue(west, names.GATEWAY, "gateway"),
        observer=issue(west, names.OBSERVER, "observer"),
    )


def write_sidecars(
    folder: Path, credentials: Credentials, east: Region, west: Region
) -> tuple[Sidecar, Sidecar]:
    """Configuration files of the producer's and the consumer's sidecar."""
    gateways = [names.GATEWAY, names.OBSERVER]
    producer = _sidecar(folder, east, credentials.east_sidecar, {"accept": [names.WEST_POOL]}, gateways)
    dial = [
        {"identity": names.EAST_POOL, "addresses": [f"{east.link_address}:{east.ports.peer}"]},
    ]
    consumer = _sidecar(folder, west, credentials.west_sidecar, {"dial": dial}, gateways)
    return producer, consumer


def _sidecar(
    folder: Path, region: Region, files: Files, peers: Mapping[str, Any], gateways: Sequence[str]
) -> Sidecar:
    socket = folder / f"{region.name}.sock"
    listen, ports = region.listen_address, region.ports
    content = {
        "engine": {"socket": str(socket), "url": f"http://{region.shell_address}:{ports.engine}"},
        "arena_bytes": ARENA,
        "listen": {
            "peer": f"{listen}:{ports.peer}",
            "control": f"{listen}:{ports.control}",
            "health": f"{region.shell_address}:{ports.health}",
        },
        "tls": {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)},
        "peers": dict(peers),
        "gateways": list(gateways),
        # Long enough for whatever the demo does, short enough that Ctrl-C does not wait.
        "drain_seconds": 2,
    }
    return Sidecar(_write(folder / f"sidecar-{region.name}.yaml", content), socket)


def write_gateway(
    folder: Path, files: Files, east: Region, west: Region, model: Path, *, remote: bool
) -> Path:
    """Configuration file of the gateway, or of a second one that never prefills remotely, to compare with."""
    ports = west.ports
    port, health = (
        (ports.gateway, ports.gateway_health) if remote else (ports.local_gateway, ports.local_gateway_health)
    )
    content: dict[str, Any] = {
        "listen": f"{west.shell_address}:{port}",
        "health_listen": f"{west.shell_address}:{health}",
        "region": west.name,
        "identity": names.GATEWAY,
        "tls": {
            "certificate": str(files.certificate),
            "key": str(files.key),
            "trust_bundle": str(files.ca),
        },
        "remote_prefill": remote,
        "models": [
            {
                "name": names.MODEL,
                "tokenizer": str(model),
                "max_model_tokens": MAX_MODEL_TOKENS,
                "threshold_tokens": THRESHOLD_TOKENS,
                "block_tokens": BLOCK_TOKENS,
            }
        ],
        "decode_engines": [
            {
                "name": "west",
                "url": f"http://{west.shell_address}:{ports.engine}",
                "control": f"https://{west.link_address}:{ports.control}",
                "identity": names.WEST_POOL,
            }
        ],
        "prefill_engines": [
            {
                "name": "east",
                "control": f"https://{east.link_address}:{east.ports.control}",
                "kv_address": f"{east.link_address}:{east.ports.peer}",
                "identity": names.EAST_POOL,
            }
        ],
        # A restored link is noticed soon.
        "health": {"probe_seconds": 2},
    }
    return _write(folder / ("gateway.yaml" if remote else "gateway-local.yaml"), content)


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return path
