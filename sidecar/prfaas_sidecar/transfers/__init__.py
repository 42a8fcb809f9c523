"""Pure state of transfers: what was wanted, published, sent, landed. No sockets, no clock."""
