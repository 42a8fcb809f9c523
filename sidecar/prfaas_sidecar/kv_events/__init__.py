"""What the engine publishes of its KV cache (vLLM's KV events), kept and passed on to gateways.

`events` reads them, `ledger` keeps what they say, `endpoints` says where they come from: functions of values.
`follower` is the edge towards the engine, `serving` the one towards gateways. docs/sidecar.md, "KV events".
"""
