"""A whole Kubernetes on one machine, without Docker: etcd, API server, controllers, nodes with containerd.

The control plane and each node live in a sandbox of their own: network, mount, process and host-name
namespaces under one first process. When that process ends, however it ends, the kernel ends everything
inside: shims, containers, mounts, interfaces, packet rules. What can outlive a sandbox is a folder, control
groups, an interface and a few settings of the machine, all found by name again.
"""
