"""Prometheus metrics. Labels have few values by design: no transfer ids, no peers' free text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """All that a sidecar counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.transfers = Counter(
            "prfaas_sidecar_transfers", "Transfers that ended", ["side", "code"], registry=registry
        )
        self.refused = Counter(
            "prfaas_sidecar_transfers_refused",
            "Transfers refused at the start",
            ["side", "code"],
            registry=registry,
        )
        self.running = Gauge(
            "prfaas_sidecar_transfers_running", "Transfers under way", ["side"], registry=registry
        )
        self.bytes_wire = Counter(
            "prfaas_sidecar_wire_bytes",
            "Bytes of DATA frames on the wire, before TLS",
            ["side"],
            registry=registry,
        )
        self.bytes_kv = Counter(
            "prfaas_sidecar_kv_bytes", "Bytes of KV in DATA frames", ["side"], registry=registry
        )
        self.bytes_dropped = Counter(
            "prfaas_sidecar_dropped_bytes",
            "KV bytes that arrived for a pull that was over",
            registry=registry,
        )
        self.kv_event_batches = Counter(
            "prfaas_sidecar_kv_event_batches", "Batches of the engine's KV events", registry=registry
        )
        self.kv_event_gaps = Counter(
            "prfaas_sidecar_kv_event_gaps",
            "Times that KV events were gone for good, upon which what the engine holds was unknown",
            registry=registry,
        )
        self.held_blocks = Gauge(
            "prfaas_sidecar_held_blocks", "Blocks that the engine holds by its KV events", registry=registry
        )
        self.held_blocks_complete = Gauge(
            "prfaas_sidecar_held_blocks_complete",
            "1 while that is all that the engine holds",
            registry=registry,
        )
        self.arena_used = Gauge("prfaas_sidecar_arena_used_bytes", "Arena bytes in use", registry=registry)
        self.arena_total = Gauge("prfaas_sidecar_arena_bytes", "Size of the arena", registry=registry)
        self.streams = Gauge(
            "prfaas_sidecar_streams", "Open streams of the peer protocol", ["side"], registry=registry
        )
        self.streams_lost = Counter(
            "prfaas_sidecar_streams_lost",
            "Streams that ended, by reason",
            ["side", "code"],
            registry=registry,
        )
        self.resumes = Counter(
            "prfaas_sidecar_resumes",
            "Times that a transfer asked again for what was missing",
            registry=registry,
        )
        self.checksum_failures = Counter(
            "prfaas_sidecar_checksum_failures",
            "DATA frames whose payload failed its check",
            registry=registry,
        )
        self.handshakes_refused = Counter(
            "prfaas_sidecar_handshakes_refused",
            "Connections refused before any request",
            ["listener", "reason"],
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "prfaas_sidecar_first_byte_seconds",
            "From asking for a transfer to its first KV, at the consumer",
            buckets=_SECONDS,
            registry=registry,
        )
        self.tail_seconds = Histogram(
            "prfaas_sidecar_tail_seconds",
            "From the engine's last publish to the last KV sent, at the producer",
            buckets=_SECONDS,
            registry=registry,
        )
        self.total_seconds = Histogram(
            "prfaas_sidecar_transfer_seconds",
            "Length of transfers",
            ["side"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.engine_connections = Gauge(
            "prfaas_sidecar_engine_connections", "Connections of the local engine", registry=registry
        )
        self.rtt_seconds = Gauge(
            "prfaas_sidecar_peer_rtt_seconds",
            "Smoothed round trip, by the kernel",
            ["peer"],
            registry=registry,
        )
        self.retransmits = Counter(
            "prfaas_sidecar_peer_retransmits",
            "TCP segments sent again, by the kernel",
            ["peer"],
            registry=registry,
        )
        self.prefills = Counter(
            "prfaas_sidecar_prefill_requests",
            "Prefill legs passed to the engine",
            ["outcome"],
            registry=registry,
        )

        self.draining = Gauge(
            "prfaas_sidecar_draining", "Whether new transfers are refused", registry=registry
        )
        self.drains = Counter(
            "prfaas_sidecar_drains", "Calls of /drain that were answered", ["outcome"], registry=registry
        )
        self.peers_read = Gauge(
            "prfaas_sidecar_peers_read_timestamp_seconds",
            "When the peers in force were read from their file; 0 without one",
            registry=registry,
        )
        self.peers_broken = Gauge(
            "prfaas_sidecar_peers_file_broken",
            "Whether the peers file is missing or cannot be used as it is",
            registry=registry,
        )
        self.peers_in_force = Gauge(
            "prfaas_sidecar_peers_in_force",
            "Entries of each list; the label digest is the beginning of the file's SHA-256",
            ["list", "digest"],
            registry=registry,
        )

        self.regions = Gauge(
            "prfaas_sidecar_regions",
            "Other regions: trusted, or broken because their trust bundle cannot be used",
            ["state"],
            registry=registry,
        )

        self.link_received = Counter(
            "prfaas_sidecar_link_received_bytes",
            "Bytes that came in from a region's sidecars, without TLS and TCP",
            ["source_region"],
            registry=registry,
        )
        self.link_busy = Counter(
            "prfaas_sidecar_link_busy_seconds",
            "Time in which KV came in from a region",
            ["source_region"],
            registry=registry,
        )
        self.link_goodput = Gauge(
            "prfaas_sidecar_link_goodput_bits_per_second",
            "What came in from a region in busy time, lately",
            ["source_region"],
            registry=registry,
        )
        self.link_rtt = Gauge(
            "prfaas_sidecar_link_rtt_seconds",
            "Median round trip to a region's sidecars, by the kernel",
            ["source_region"],
            registry=registry,
        )
        self.link_retransmits = Gauge(
            "prfaas_sidecar_link_retransmits_percent",
            "Segments from a region that came out of their order lately, by the kernel",
            ["source_region"],
            registry=registry,
        )

    def render(self) -> bytes:
        """Text exposition format."""
        return generate_latest(self.registry)
