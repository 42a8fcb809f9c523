"""What the connector (in the engine's process) and the sidecar say to each other over a Unix socket.

Standard library only: the connector side runs in a stock engine image. docs/contracts.md describes the
conversation; `messages` holds its words, `framing` puts them on the socket, `units` does the arithmetic of
lanes and units that both sides must agree on.
"""
