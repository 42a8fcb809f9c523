"""Asks the sidecars and the gateway how things stand: transfers, metrics, readiness."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict, ValidationError

from prfaas_demo.certificates import Files
from prfaas_demo.errors import DemoError
from prfaas_demo.regions import Region

_SECONDS = 5.0


class Transfer(BaseModel):
    """What a sidecar tells of a transfer (docs/contracts.md). Times are seconds since the epoch."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: str
    code: str | None
    bytes_wire: int
    bytes_kv: int
    taken_tokens: int | None
    opened_at: float | None
    first_byte_at: float | None
    last_byte_at: float | None
    producer_done_at: float | None
    ended_at: float | None


@dataclass(frozen=True)
class Observer:
    """Calls with the demo's own certificate."""

    session: aiohttp.ClientSession
    tls: ssl.SSLContext

    async def transfer(self, region: Region, transfer_id: str) -> Transfer | None:
        """One side's record; None where the sidecar knows nothing.

        Raises:
            DemoError: the sidecar does not answer.
        """
        url = f"https://{region.shell_address}:{region.ports.control}/v1/transfers/{transfer_id}"
        try:
            async with self.session.get(url, ssl=self.tls, timeout=_timeout()) as response:
                if response.status == 404:
                    return None
                return Transfer.model_validate_json(await response.read())
        except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
            raise DemoError(
                f"the sidecar of {region.name} does not tell of transfers: "
                f"{str(error) or type(error).__name__}"
            ) from error

    async def metric(self, url: str, name: str, labels: Mapping[str, str]) -> float | None:
        """A sample of a metrics page; None while it is not there or the page does not answer."""
        try:
            async with self.session.get(f"{url}/metrics", timeout=_timeout()) as response:
                page = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
        return sample(page, name, labels)

    async def answers(self, url: str) -> bool:
        """Whether a GET is answered with 200."""
        try:
            async with self.session.get(url, timeout=_timeout()) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def observer_tls(files: Files) -> ssl.SSLContext:
    """For the control listeners: both sides show certificates."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    return context


def sample(page: str, name: str, labels: Mapping[str, str]) -> float | None:
    """The value of one sample of a Prometheus page."""
    for family in text_string_to_metric_families(page):
        for each in family.samples:
            if each.name == name and all(each.labels.get(key) == value for key, value in labels.items()):
                return float(each.value)
    return None


def _timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_SECONDS)
