"""The yardstick: one mutual-TLS stream between two processes, blocking calls, nothing else.

``python -m prfaas_bench.bare_tls FOLDER BYTES`` receives with the certificates in a folder. It prints its
port, and then the seconds and processor seconds that it took.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

_CHUNK_BYTES = 1 << 20
_SECONDS = 120.0


def measure(sender: Path, receiver: Path, size_bytes: int, source: memoryview) -> tuple[float, float]:
    """Seconds from first to last byte, as the receiving process saw them, and both ends' processor seconds.

    Args:
        sender: folder with ``tls.crt``, ``tls.key`` and ``tls-ca.crt`` of the sending side.
        receiver: the same of the receiving side.
        size_bytes: what is sent in all.
        source: memory to send from; it is sent again until the size is reached.

    Raises:
        OSError: the receiver went away.
    """
    command = [sys.executable, "-m", "prfaas_bench.bare_tls", str(receiver), str(size_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise OSError("no pipe to the receiver")
            port = int(process.stdout.readline())
            context = _context(sender, ssl.PROTOCOL_TLS_CLIENT)
            with (
                socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as raw,
                context.wrap_socket(raw) as stream,
            ):
                before = time.process_time()
                left = size_bytes
                while left:
                    size = min(left, _CHUNK_BYTES)
                    start = (size_bytes - left) % max(1, source.nbytes - size + 1)
                    stream.sendall(source[start : start + size])
                    left -= size
                seconds, cpu_seconds = map(float, process.stdout.readline().split())
                return seconds, cpu_seconds + time.process_time() - before
        finally:
            process.kill()


def receive(folder: Path, size_bytes: int) -> None:
    """Take ``size_bytes`` into one buffer and print the seconds."""
    context = _context(folder, ssl.PROTOCOL_TLS_SERVER)
    target = memoryview(bytearray(size_bytes))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        raw, _ = listener.accept()
        with context.wrap_socket(raw, server_side=True) as stream:
            stream.settimeout(_SECONDS)
            received = stream.recv_into(target[:_CHUNK_BYTES])
            start, before = time.perf_counter(), time.process_time()
            while received < size_bytes:
                received += stream.recv_into(target[received : received + _CHUNK_BYTES])
            print(time.perf_counter() - start, time.process_time() - before, flush=True)


def _context(folder: Path, kind: int) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    context.load_verify_locations(folder / "tls-ca.crt")
    return context


if __name__ == "__main__":
    receive(Path(sys.argv[1]), int(sys.argv[2]))
