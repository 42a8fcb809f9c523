"""A whole cluster with real engines. Run by `make e2e`."""
