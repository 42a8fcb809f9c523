"""Real Kubernetes clusters for tests: bare processes, kind, or one that exists."""
