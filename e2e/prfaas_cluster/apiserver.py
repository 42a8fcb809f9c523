"""An API server with its etcd and nothing else: what most tests of a control plane need.

Nothing schedules, nothing runs pods, nothing collects garbage. The real server validates, defaults, checks
rights and resource versions, merges applies and evaluates CEL, which no imitation does faithfully.

>>> with ApiServer.running(folder) as server:
...     print(server.kubeconfig)
"""

from __future__ import annotations

import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prfaas_cluster import assets, pki
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubeconfig import kubeconfig, write_kubeconfig
from prfaas_cluster.process import Process

START_SECONDS = 60.0
ASK_SECONDS = 2.0
POLL_SECONDS = 0.1
HOST = "127.0.0.1"
ADMIN_GROUP = "system:masters"
_STARTS = 3


class ApiServer:
    """An API server with its etcd, in a folder of its own.

    Args:
        folder: empty; takes certificates, data and logs.
        arguments: flags of kube-apiserver over the usual ones, such as `{"max-requests-inflight": "5"}`.
        service_accounts: whether pods need the ServiceAccount that no controller here makes.

    Attributes:
        kubeconfig: of an administrator.
        url: where it listens, also after a restart.
        etcd, server: the two processes.
    """

    def __init__(
        self, folder: Path, *, arguments: Mapping[str, str] | None = None, service_accounts: bool = False
    ) -> None:
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self._arguments = dict(arguments or {})
        self._service_accounts = service_accounts
        self._authority = pki.Authority.new("prfaas test cluster")
        self._probing = trust(self._authority.pem)
        self._make_files()
        self._place_on_free_ports()

    @classmethod
    @contextmanager
    def running(
        cls, folder: Path, *, arguments: Mapping[str, str] | None = None, service_accounts: bool = False
    ) -> Iterator[ApiServer]:
        """One that is ready within the block and gone after it.

        Raises:
            ClusterError: it did not become ready; the text says what its log says.
            SetupError: its programs can't be had here.
        """
        made = cls(folder, arguments=arguments, service_accounts=service_accounts)
        try:
            made.start()
            yield made
        finally:
            made.stop()

    def start(self) -> None:
        """Start both, and wait until the server is ready. Once started, the ports stay the same."""
        for left in range(_STARTS - 1, -1, -1):
            try:
                self.etcd.start()
                self.server.start()
                self.wait_until_ready()
            except ClusterError:
                taken = self._lost_a_port()
                self.stop()
                if not (taken and left):
                    raise
                # Somebody took a port between the look and the start.
                self._place_on_free_ports()
            else:
                return

    def stop(self) -> None:
        """End both."""
        self.server.stop()
        self.etcd.stop()

    def restart(self) -> None:
        """End the server in order and start it again on the same port. Watches break, data stays."""
        self.server.stop()
        self.server.start()
        self.wait_until_ready()

    def pause(self) -> None:
        """The server answers no more, and its connections stay open: a silent watch."""
        self.server.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self.server.resume()

    def process_ids(self) -> set[int]:
        return {pid for process in (self.etcd, self.server) if (pid := process.pid) is not None}

    def kubeconfig_of(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig of a user without rights, except those that RBAC gives to it and its groups."""
        path = self.folder / f"user-{user.replace(':', '-').replace('/', '-')}.kubeconfig"
        client = self._authority.client(user, groups)
        return write_kubeconfig(path, kubeconfig("prfaas", self.url, self._authority.pem, user, client))

    def wait_until_ready(self, within_seconds: float = START_SECONDS) -> None:
        """Wait for /readyz.

        Raises:
            ClusterError: one of the two ended, or it took too long.
        """
        deadline = time.monotonic() + within_seconds
        while (why := why_not_ready(self.url, self._probing)) is not None:
            self.etcd.check()
            self.server.check()
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the API server wasn't ready after {within_seconds:.0f} s: {why}", self.server.log
                )
            time.sleep(POLL_SECONDS)

    def _make_files(self) -> None:
        (self.folder / "etcd").mkdir(mode=0o700)
        (self.folder / "ca.crt").write_bytes(self._authority.pem)
        pki.write_secret(self.folder / "service-accounts.key", pki.signing_key())
        names = [HOST, "localhost", "kubernetes.default.svc"]
        self._authority.server("kube-apiserver", names).write(self.folder, "server")

    def _place_on_free_ports(self) -> None:
        etcd_port, peer_port, server_port = _free_ports(3)
        self.url = f"https://{HOST}:{server_port}"
        client = self._authority.client("admin", [ADMIN_GROUP])
        write_kubeconfig(
            self.kubeconfig, kubeconfig("prfaas", self.url, self._authority.pem, "admin", client)
        )
        self.etcd = Process(
            "etcd",
            [str(assets.program("etcd")), *_flags(etcd_flags(self.folder, etcd_port, peer_port))],
            self.folder / "etcd.log",
        )
        flags = server_flags(self.folder, server_port, etcd_port, service_accounts=self._service_accounts)
        self.server = Process(
            "kube-apiserver",
            [str(assets.program("kube-apiserver")), *_flags({**flags, **self._arguments})],
            self.folder / "kube-apiserver.log",
        )

    def _lost_a_port(self) -> bool:
        logs = (process.log for process in (self.etcd, self.server) if process.log.is_file())
        return any(b"address already in use" in log.read_bytes() for log in logs)


def etcd_flags(folder: Path, port: int, peer_port: int) -> dict[str, str]:
    """Flags of an etcd for one test run, which need not survive a power cut."""
    return {
        "data-dir": str(folder / "etcd"),
        "listen-client-urls": f"http://{HOST}:{port}",
        "advertise-client-urls": f"http://{HOST}:{port}",
        "listen-peer-urls": f"http://{HOST}:{peer_port}",
        "initial-advertise-peer-urls": f"http://{HOST}:{peer_port}",
        "initial-cluster": f"default=http://{HOST}:{peer_port}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }


def server_flags(folder: Path, port: int, etcd_port: int, *, service_accounts: bool) -> dict[str, str]:
    """Flags of an API server that stands alone."""
    flags = {
        "etcd-servers": f"http://{HOST}:{etcd_port}",
        "bind-address": HOST,
        "advertise-address": HOST,
        "secure-port": str(port),
        # The Service `kubernetes` needs an address that pods could reach, and there are no pods.
        "endpoint-reconciler-type": "none",
        "cert-dir": str(folder),
        "tls-cert-file": str(folder / "server.crt"),
        "tls-private-key-file": str(folder / "server.key"),
        "client-ca-file": str(folder / "ca.crt"),
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": str(folder / "service-accounts.key"),
        "service-account-signing-key-file": str(folder / "service-accounts.key"),
        "service-cluster-ip-range": "10.96.0.0/16",
        "authorization-mode": "Node,RBAC",
        "allow-privileged": "true",
        "profiling": "false",
    }
    if not service_accounts:
        flags["disable-admission-plugins"] = "ServiceAccount"
    return flags


def _flags(flags: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def trust(ca_pem: bytes) -> ssl.SSLContext:
    """What `why_not_ready` needs to trust one authority and no other."""
    return ssl.create_default_context(cadata=ca_pem.decode())


def why_not_ready(url: str, trusting: ssl.SSLContext) -> str | None:
    """None when the API server there is ready, else the reason. Anybody may ask."""
    try:
        asked = urllib.request.Request(f"{url}/readyz")  # noqa: S310 -- always https
        with urllib.request.urlopen(asked, context=trusting, timeout=ASK_SECONDS):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"/readyz says {error.code}"
    except OSError as error:
        return str(error)
