"""A small client of the Kubernetes API: plain dictionaries, server-side apply, list and watch."""
