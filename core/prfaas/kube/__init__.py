"""A small client of the Kubernetes API: plain dictionaries, server-side apply, list and watch.

`api` says what a client can do, `client` does it over HTTP, `connect` finds address and credentials,
`reflect` follows a collection, `errors` says what went wrong and whose fault it is.
"""
