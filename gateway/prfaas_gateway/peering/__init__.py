"""Gateways among themselves (docs/federation.md): what each region tells the others, and legs passed on.

`wire`, `lines`, `feed`, `region`, `offers`, `links`, `hops` and `picture` are functions of values. `trust`,
`listener`, `legs` and `stream` are the edges, `peers` ties them together.
"""
