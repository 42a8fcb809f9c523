"""Sockets: TLS credentials, listeners, streams of the peer protocol, links to producers."""
