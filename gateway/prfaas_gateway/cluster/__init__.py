"""The gateway in a cluster: models and engines come from the operator's snapshot and from pods.

`pods`, `policy` and `membership` are functions of values. `living` and `models` bring what serves requests to
what they say. `watch`, `store` and `tokenizers` are the edges, `controller` ties them together.
"""
