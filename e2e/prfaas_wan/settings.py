"""What a link is like, and what an emulator is made of: validated values, nothing else."""

from __future__ import annotations

from typing import Any, Literal, Self, TypedDict, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prfaas_wan.errors import WanError

Direction = Literal["a-to-b", "b-to-a"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
HOSTS = ("a", "b")

DEFAULT_QUEUE_SECONDS = 0.05
_LEAST_TCP_BUFFER_BYTES = 32 * 1024**2
_MOST_TCP_BUFFER_BYTES = 512 * 1024**2


class LinkSettings(BaseModel):
    """One direction of a link.

    The rate counts IP packets (headers included, no Ethernet framing); None is unlimited. `queue_seconds`
    is a length at the link's rate; without a rate there is no queue to fill. A `cut` link delivers
    nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_bits_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    delay_seconds: float = Field(default=0.0, ge=0, le=60)
    jitter_seconds: float = Field(default=0.0, ge=0, le=60)
    loss_fraction: float = Field(default=0.0, ge=0, le=1)
    queue_seconds: float | None = Field(default=None, gt=0, le=3600)
    queue_bytes: int | None = Field(default=None, gt=0)
    reorder: bool = False
    cut: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jitter_seconds > self.delay_seconds:
            raise ValueError(
                "jitter is more than the one-way delay (half the RTT); lower it or raise the RTT"
            )
        if self.queue_seconds is not None and self.queue_bytes is not None:
            raise ValueError("give the queue's length either as a time or in bytes, not both")
        return self

    @property
    def queue_limit_bytes(self) -> float:
        """How many bytes may wait for the link; infinite without a rate, since nothing waits then."""
        if self.queue_bytes is not None:
            return self.queue_bytes
        if self.rate_bits_per_second is None:
            return float("inf")
        return self.rate_bits_per_second / 8 * (self.queue_seconds or DEFAULT_QUEUE_SECONDS)


class LinkChange(TypedDict, total=False):
    """A change of some settings of a link; see `LinkSettings` for their meaning."""

    rate_bits_per_second: float | None
    delay_seconds: float
    jitter_seconds: float
    loss_fraction: float
    queue_seconds: float | None
    queue_bytes: int | None
    reorder: bool
    cut: bool


def changed(settings: LinkSettings, change: LinkChange) -> LinkSettings:
    """`settings` with `change` applied. Raises WanError `InvalidSetting` with the field and the reason."""
    values: dict[str, Any] = settings.model_dump()
    if change.get("queue_seconds") is not None:
        values["queue_bytes"] = None
    if change.get("queue_bytes") is not None:
        values["queue_seconds"] = None
    values.update(change)
    return link_settings(values)


class WanConfig(BaseModel):
    """Two hosts, `a` and `b`, and the link between them.

    `name` is how commands find the emulator; one is made up when it is None. With `host_access` each host
    can also be reached from the network namespace that the emulator was started in, past the link and
    unshaped. `slow_start_after_idle` and `congestion_control` are set inside the hosts only when given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    a_to_b: LinkSettings = LinkSettings()
    b_to_a: LinkSettings = LinkSettings()
    host_access: bool = False
    mtu_bytes: int = Field(default=1500, ge=576, le=9000)
    slow_start_after_idle: bool | None = None
    congestion_control: str | None = Field(default=None, pattern=r"^[a-z0-9_]{1,15}$")
    random_seed: int | None = None

    @classmethod
    def symmetric(
        cls,
        *,
        rate_bits_per_second: float | None = None,
        rtt_seconds: float = 0.0,
        jitter_seconds: float = 0.0,
        loss_fraction: float = 0.0,
        queue_seconds: float | None = None,
        queue_bytes: int | None = None,
        reorder: bool = False,
        name: str | None = None,
        host_access: bool = False,
    ) -> Self:
        """The same link both ways, half of the RTT each. Jitter and loss apply to each way."""
        values = {
            "rate_bits_per_second": rate_bits_per_second,
            "delay_seconds": rtt_seconds / 2,
            "jitter_seconds": jitter_seconds,
            "loss_fraction": loss_fraction,
            "queue_seconds": queue_seconds,
            "queue_bytes": queue_bytes,
            "reorder": reorder,
        }
        link = link_settings(values)
        return cls(name=name, a_to_b=link, b_to_a=link, host_access=host_access)

    def link(self, direction: Direction) -> LinkSettings:
        return self.a_to_b if direction == "a-to-b" else self.b_to_a


def link_settings(values: dict[str, Any]) -> LinkSettings:
    """Validate, with the fault as a WanError `InvalidSetting` that names the field."""
    try:
        return LinkSettings.model_validate(values)
    except ValidationError as error:
        raise _first_fault(error) from error


def wan_config(values: dict[str, Any]) -> WanConfig:
    """As `link_settings`."""
    try:
        return WanConfig.model_validate(values)
    except ValidationError as error:
        raise _first_fault(error) from error


def _first_fault(error: ValidationError) -> WanError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return WanError("InvalidSetting", f"{field}: {reason}" if field else reason)


def tcp_buffer_bytes(a_to_b: LinkSettings, b_to_a: LinkSettings) -> int:
    """How far TCP's buffers must be able to grow so that they never limit a connection: twice what the link
    and its queue can hold at once."""
    rtt_seconds = a_to_b.delay_seconds + b_to_a.delay_seconds
    most = _LEAST_TCP_BUFFER_BYTES
    for link in (a_to_b, b_to_a):
        # Without a rate, 10 Gbit/s is about what the relay carries.
        rate = link.rate_bits_per_second or 10e9
        queue_bytes = link.queue_limit_bytes if link.rate_bits_per_second else 0
        most = max(most, int(2 * (rate / 8 * rtt_seconds + queue_bytes)))
    return min(most, _MOST_TCP_BUFFER_BYTES)
