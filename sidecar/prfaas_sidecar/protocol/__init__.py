"""The peer protocol without I/O: frames, bodies of control frames, state tables, and one session per stream.

docs/wire-protocol.md describes it for readers and is checked against these tables.
"""
