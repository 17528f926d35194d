"""Health: who of the nodes is well, and what follows from it.

``checker`` asks each node again and again; ``tracker`` says, without clock or I/O, what the answers make of it; the
probes are in ``probes``, ``tcp_probe`` and ``grpc_probe``. What is public of it is exported by ``clustercore``.
"""
