"""The commands that core brings itself. Those that speak to a cluster need the extra `kube`."""
