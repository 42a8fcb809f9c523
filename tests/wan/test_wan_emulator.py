"""The emulator as a whole: real namespaces, real TCP."""

from __future__ import annotations

import random
import socket
import subprocess
import time

import pytest
from wan_traffic import connected, receive, round_trip_seconds, sending, wait_until

from prfaas_wan import Direction, WanConfig, WanError, connect, launch, wan

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespaces")]


def payload(size_bytes: int) -> bytes:
    return random.Random(5).randbytes(size_bytes)


def test_the_round_trip_takes_the_time_that_was_set_and_follows_a_change() -> None:
    with wan(WanConfig.symmetric(rtt_seconds=0.04)) as network, connected(network.a, network.b) as connection:
        first = min(round_trip_seconds(connection) for _ in range(5))
        network.set_rtt(0.2)
        second = min(round_trip_seconds(connection) for _ in range(3))
    # From below the emulator is exact; from above a busy machine adds its own share.
    assert 0.04 <= first < 0.1
    assert 0.2 <= second < 0.26


@pytest.mark.parametrize("direction", ["a-to-b", "b-to-a"])
def test_goodput_is_near_the_rate(direction: Direction) -> None:
    rate = 80e6
    config = WanConfig.symmetric(rate_bits_per_second=rate, rtt_seconds=0.01, queue_seconds=0.1)
    data = payload(4_000_000)
    with wan(config) as network:
        source, target = network.hosts[direction[0]], network.hosts[direction[-1]]
        with connected(source, target) as connection:
            started = time.perf_counter()
            with sending(connection.near, data):
                assert receive(connection.far, len(data)) == data
            goodput = len(data) * 8 / (time.perf_counter() - started)
        stats = network.stats()[direction]
    assert 0.4 * rate < goodput < rate
    assert stats.delivered_bytes > len(data)
    assert stats.undelivered_frames == stats.unreadable_frames == stats.device_dropped_packets == 0


def test_lost_segments_are_counted_and_tcp_repairs_the_rest() -> None:
    data = payload(3_000_000)
    with wan(WanConfig.symmetric(rtt_seconds=0.004, loss_fraction=0.03)) as network:
        with connected(network.a, network.b, "reno") as connection, sending(connection.near, data):
            assert receive(connection.far, len(data)) == data
        stats = network.stats()["a-to-b"]
    segments = len(data) / 1448
    assert stats.offered_segments > segments
    assert 0.5 * 0.03 * segments < stats.lost_segments < 2 * 0.03 * stats.offered_segments
    assert stats.unreadable_frames == stats.undelivered_frames == 0


def test_a_full_queue_drops_from_super_packets_and_nothing_is_damaged() -> None:
    data = payload(3_000_000)
    config = WanConfig.symmetric(rate_bits_per_second=50e6, rtt_seconds=0.004, queue_bytes=20_000)
    with wan(config) as network:
        with connected(network.a, network.b, "cubic") as connection, sending(connection.near, data):
            assert receive(connection.far, len(data)) == data
        stats = network.stats()["a-to-b"]
    assert stats.dropped_queue_segments > 0
    assert stats.lost_segments == 0


def test_the_same_over_ipv6() -> None:
    data = payload(1_000_000)
    with wan(WanConfig.symmetric(rtt_seconds=0.002, loss_fraction=0.02)) as network:
        with (
            network.b.inside(),
            socket.create_server((network.b.address_v6, 0), family=socket.AF_INET6) as server,
        ):
            server.settimeout(10)
            with network.a.inside():
                near = socket.create_connection(server.getsockname()[:2], timeout=10)
            with near:
                far, _ = server.accept()
                far.settimeout(10)
                with far, sending(near, data):
                    assert receive(far, len(data)) == data
        assert network.stats()["a-to-b"].lost_segments > 0


def test_a_cut_connection_stands_still_and_goes_on_after_restoring() -> None:
    with wan(WanConfig.symmetric(rtt_seconds=0.01)) as network, connected(network.a, network.b) as connection:
        round_trip_seconds(connection)
        network.cut("a-to-b")
        connection.near.sendall(b"while cut")
        wait_until(lambda: network.stats()["a-to-b"].dropped_cut_segments > 0, "the cut drops what was sent")
        connection.far.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.far.recv(1)
        connection.far.settimeout(15)
        # The other way still works: this is an asymmetric cut.
        connection.far.sendall(b"one way")
        assert receive(connection.near, 7) == b"one way"
        assert network.stats()["b-to-a"].dropped_cut_segments == 0

        network.restore()
        assert receive(connection.far, 9) == b"while cut"


def test_the_rate_can_be_raised_under_a_running_transfer() -> None:
    data = payload(8_000_000)
    slow = WanConfig.symmetric(rate_bits_per_second=1e6, rtt_seconds=0.004)
    with wan(slow) as network, connected(network.a, network.b) as connection, sending(connection.near, data):
        first = receive(connection.far, 10_000)
        # At the slow rate the rest would take a minute, past every deadline here.
        status = network.set(rate_bits_per_second=400e6, queue_seconds=0.1)
        assert status.directions["a-to-b"].settings.rate_bits_per_second == 400e6
        assert first + receive(connection.far, len(data) - 10_000) == data


def test_a_bad_change_is_refused_and_changes_nothing() -> None:
    with wan(WanConfig.symmetric(rtt_seconds=0.01)) as network:
        before = network.status().directions["a-to-b"].settings
        with pytest.raises(WanError, match="jitter") as caught:
            network.set(jitter_seconds=1.0)
        assert caught.value.code == "InvalidSetting"
        with pytest.raises(WanError) as caught:
            network.set_each({"a-to-b": {"cut": True}, "b-to-a": {"loss_fraction": 7}})
        assert caught.value.code == "InvalidSetting"
        assert network.status().directions["a-to-b"].settings == before


def test_two_emulators_at_once_do_not_meet() -> None:
    with wan() as one, wan(WanConfig(name="second")) as two:
        assert one.a.address != two.a.address
        assert one.name != two.name
        two.cut()
        with connected(one.a, one.b) as connection:
            round_trip_seconds(connection)
        with pytest.raises(WanError) as caught, wan(WanConfig(name="second")):
            pass
        assert caught.value.code == "NameInUse"
        assert "prfaas wan down second" in caught.value.message
        two.restore()
        with connected(two.a, two.b) as connection:
            round_trip_seconds(connection)


def test_hosts_are_reachable_from_outside_but_not_through_it() -> None:
    with wan(WanConfig(host_access=True)) as network:
        assert network.b.access_address is not None
        with network.b.inside():
            server = socket.create_server(("0.0.0.0", 0))  # noqa: S104
        with server:
            port = server.getsockname()[1]
            network.cut()
            with socket.create_connection((network.b.access_address, port), timeout=5):
                pass
            with network.a.inside(), pytest.raises(OSError, match="unreachable"):
                socket.create_connection((network.b.access_address, port), timeout=5)


def test_processes_run_in_their_host() -> None:
    with wan() as network:
        done = network.a.run(["ip", "-4", "-brief", "addr"], capture_output=True, text=True, check=True)
        assert network.a.address in done.stdout
        assert "127.0.0.1" in done.stdout
        with network.b.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            output, _ = process.communicate(b"hello", timeout=10)
        assert output == b"hello"


def test_congestion_control_and_buffers_are_set_inside() -> None:
    config = WanConfig(congestion_control="reno", slow_start_after_idle=False)
    with wan(config) as network:
        names = ("tcp_congestion_control", "tcp_slow_start_after_idle", "tcp_wmem", "tcp_rmem")
        paths = [f"/proc/sys/net/ipv4/{name}" for name in names]
        done = network.a.run(["cat", *paths], capture_output=True, text=True, check=True)
        congestion_control, slow_start, wmem, rmem = done.stdout.splitlines()
        network.set(rate_bits_per_second=10e9, delay_seconds=0.05)
        after = network.a.run(["cat", paths[2]], capture_output=True, text=True, check=True).stdout
    assert (congestion_control, slow_start) == ("reno", "0")
    assert int(wmem.split()[2]) >= 32 * 1024**2 <= int(rmem.split()[2])
    assert int(after.split()[2]) >= 2 * 10e9 / 8 * 0.1


def test_an_unknown_congestion_control_is_refused_with_advice() -> None:
    with (
        pytest.raises(WanError, match="tcp_available_congestion_control"),
        wan(WanConfig(congestion_control="nosuch")),
    ):
        pass


def test_asking_for_an_emulator_that_does_not_run() -> None:
    with pytest.raises(WanError, match="no emulator named 'nobody'") as caught:
        connect("nobody")
    assert caught.value.code == "NotRunning"


def test_a_launched_emulator_needs_no_owner() -> None:
    network = launch(WanConfig.symmetric(rtt_seconds=0.01))
    try:
        assert network.status().owner_pid is None
        with connected(network.a, network.b) as connection:
            round_trip_seconds(connection)
    finally:
        network.stop()
        network.close()
    with pytest.raises(WanError) as caught:
        connect(network.name)
    assert caught.value.code == "NotRunning"
