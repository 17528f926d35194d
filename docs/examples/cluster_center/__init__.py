"""The Cluster Center of a drone fleet, rebuilt on clustercore: three servers, missions, and a thousand UAVs.

    python -m cluster_center [--consul http://127.0.0.1:8500] [--uavs 1000] [--headless]

Run it in docs/examples, or with `make example`.
"""
