"""The edge: kopf, the API server, the lease, the queue, the executor."""
