"""Length-prefixed framing of the local API, without I/O: bytes in, messages out."""

from __future__ import annotations

import struct

from prfaas_connector.local_api.messages import Message, MessageError, decode, encode

MAX_MESSAGE_BYTES = 4 << 20
"""A produce of 1,000 lanes is about 50 KB; anything near this bound is garbage."""

_LENGTH = struct.Struct("!I")


def pack(message: Message) -> bytes:
    """One message with its four-byte big-endian length in front.

    Raises:
        MessageError: the message is larger than `MAX_MESSAGE_BYTES`.
    """
    body = encode(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{message.TYPE} of {len(body)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Collects bytes until whole messages can be taken out. Holds at most one message and one read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Messages that ``data`` completes, in order.

        Raises:
            MessageError: a length over the limit or a body that is no message; the connection is unusable
            then.
        """
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise MessageError(f"a message of {length} bytes is over the limit of {MAX_MESSAGE_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(decode(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return messages
