"""Real engines and sidecars as processes, joined by a link that can be cut: what engine tests and benchmarks
stand on."""
