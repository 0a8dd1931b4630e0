"""A real Kubernetes on one Linux machine, for tests and demos of Headway.

The control plane, containerd, runc, kubelet, kube-proxy and CoreDNS run as plain host processes,
built from pinned Go modules. Node 1 is the host itself; node 2 is a network namespace beside it.
Everything the cluster changes on the host is named `headway*`, lives below the state folder or is
written down in `host.json` first, so that `down` can take it back even after a crash.

Standard library only: it runs with the python3 of a bare Debian 12.
"""
