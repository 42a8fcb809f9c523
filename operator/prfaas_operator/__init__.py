"""The control plane of one cluster: pools and routes as custom resources, kept true."""
