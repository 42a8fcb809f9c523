"""The KV-transfer sidecar: one process beside each engine, ships KV blocks between regions."""
