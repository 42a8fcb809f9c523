"""Pools whose pods run the project's own CPU build of vLLM, without an engine image.

The engine's environment takes gigabytes and lies on this machine already, so its pods have an almost empty
image and see
the machine's programs, the environment and a small model through read-only hostPath volumes. Everything
else is as a user writes it: a pod template with a container `engine` that runs `vllm serve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prfaas_setup

API_VERSION = "prfaas.io/v1alpha1"
CLIENT_MODEL = "chat"
HOST_FOLDERS = ("/usr", "/lib", "/lib64", "/bin")
BLOCK_TOKENS = 32
MAX_MODEL_TOKENS = 8192
CHUNK_TOKENS = 512
_SCRATCH = "/scratch"
_LEFT_OUT = {"PYTHONPATH", "VLLM_CACHE_ROOT"}


@dataclass(frozen=True)
class EngineHost:
    """What a pod needs of the machine.

    Attributes:
        image: an image with little more than an `/etc/passwd`, loaded into the cluster's nodes.
        python: the engine environment's Python.
        model: folder of the model.
        environment: variables under which vLLM runs offline on this machine.
        model_facts: folder where engines keep what they found out about a model's class. Without it each
            start asks a further process, which imports all of vLLM for it.
    """

    image: str
    python: Path
    model: Path
    environment: Mapping[str, str]
    model_facts: Path

    @classmethod
    def of_this_machine(cls, image: str, model: str = "smollm2-135m", *, threads: int = 1) -> EngineHost:
        """Builds the environment and the model first where they are missing, which takes a minute."""
        prfaas_setup.ensure_served_engine_compiled()
        variables = prfaas_setup.engine_env(threads=threads)
        return cls(
            image,
            Path(prfaas_setup.engine_python()),
            Path(prfaas_setup.model_path(model)),
            {name: value for name, value in variables.items() if name not in _LEFT_OUT},
            Path(variables["VLLM_CACHE_ROOT"]) / "modelinfos",
        )

    def folders(self) -> tuple[Path, ...]:
        """Folders of the machine that the container sees at the same paths, none inside another."""
        interpreter = self.python.resolve().parent.parent
        wanted = sorted(
            {*map(Path, HOST_FOLDERS), self.python.parent.parent, interpreter, self.model.resolve()}
        )
        return tuple(
            folder
            for folder in wanted
            if folder.exists()
            and not any(other != folder and folder.is_relative_to(other) for other in wanted)
        )


def pod_template(
    host: EngineHost,
    *,
    arguments: tuple[str, ...] = (),
    memory: str = "6Gi",
    cpu: str = "100m",
) -> dict[str, Any]:
    """The pod template that a user would write for this engine."""
    folders = host.folders()
    volumes: list[dict[str, Any]] = [
        {"name": f"host-{index}", "hostPath": {"path": str(folder), "type": "Directory"}}
        for index, folder in enumerate(folders)
    ]
    mounts: list[dict[str, Any]] = [
        {"name": f"host-{index}", "mountPath": str(folder), "readOnly": True}
        for index, folder in enumerate(folders)
    ]
    facts = {"path": str(host.model_facts), "type": "DirectoryOrCreate"}
    volumes += [{"name": "scratch", "emptyDir": {}}, {"name": "model-facts", "hostPath": facts}]
    mounts += [
        {"name": "scratch", "mountPath": _SCRATCH},
        {"name": "model-facts", "mountPath": f"{_SCRATCH}/vllm/modelinfos"},
        {"name": "scratch", "mountPath": "/tmp", "subPath": "tmp"},  # noqa: S108 - the container's own
    ]
    variables = {**host.environment, "HOME": _SCRATCH, "VLLM_CACHE_ROOT": f"{_SCRATCH}/vllm"}
    return {
        "metadata": {"labels": {"app": "vllm"}},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "engine",
                    "image": host.image,
                    "command": [str(host.python.parent / "vllm"), "serve"],
                    "args": [
                        str(host.model),
                        "--served-model-name",
                        CLIENT_MODEL,
                        "--dtype",
                        "float32",
                        "--enforce-eager",
                        "--block-size",
                        str(BLOCK_TOKENS),
                        "--max-model-len",
                        str(MAX_MODEL_TOKENS),
                        "--max-num-seqs",
                        "4",
                        "--max-num-batched-tokens",
                        str(CHUNK_TOKENS),
                        "--enable-prompt-tokens-details",
                        *arguments,
                    ],
                    "env": [{"name": name, "value": value} for name, value in sorted(variables.items())],
                    "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"memory": memory}},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }


def pool(kind: str, name: str, namespace: str, template: Mapping[str, Any], **spec: object) -> dict[str, Any]:
    """A PrefillPool or DecodePool of this template; `spec` overrides and adds fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"name": CLIENT_MODEL},
            "engine": {"type": "VLLM"},
            "workload": {"template": template},
            "kv": {"arena": "512Mi"},
            "drain": {"timeoutSeconds": 30},
            **spec,
        },
    }


def route(
    name: str, namespace: str, decode: str, prefill: str, threshold_tokens: int, **spec: object
) -> dict[str, Any]:
    """A PrefillRoute that is enforced; `spec` overrides and adds fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": "PrefillRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "decodePoolRef": {"name": decode},
            "prefillPoolRefs": [{"name": prefill}],
            "mode": "Enforce",
            "threshold": {"mode": "Fixed", "tokens": threshold_tokens},
            **spec,
        },
    }


def example(
    host: EngineHost, namespace: str, *, prefill_in: str | None = None, decode_in: str | None = None
) -> list[dict[str, Any]]:
    """One pool of each kind and the route between them.

    Args:
        prefill_in, decode_in: clusters that the pools are placed in; None: wherever they are applied.
    """
    return [
        pool("PrefillPool", "long", namespace, _placed(host, prefill_in), **placement(prefill_in)),
        pool("DecodePool", "chat", namespace, _placed(host, decode_in), **placement(decode_in)),
        route("chat", namespace, "chat", "long", threshold_tokens=500),
    ]


def placement(cluster: str | None) -> dict[str, Any]:
    """The field of a pool's spec that places it; nothing for None."""
    return {} if cluster is None else {"placement": {"clusters": [{"name": cluster}]}}


def readable(template: dict[str, Any]) -> dict[str, Any]:
    """Without the one folder of the node that engines write to: a mirrored pool may only read such."""
    for volume in template["spec"]["volumes"]:
        if volume["name"] == "model-facts":
            del volume["hostPath"]
            volume["emptyDir"] = {}
    return template


def _placed(host: EngineHost, cluster: str | None) -> dict[str, Any]:
    template = pod_template(host)
    return template if cluster is None else readable(template)
