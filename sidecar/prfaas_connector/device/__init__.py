"""Copies between the engine's KV cache and the arena. `base` is the interface; one module per device."""
