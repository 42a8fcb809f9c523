"""What can go wrong with an emulated WAN, as data: a stable code, and a message that says what to do."""

from __future__ import annotations


class WanError(Exception):
    """`code` is stable CamelCase for programs; the message is for people and says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def as_data(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}
