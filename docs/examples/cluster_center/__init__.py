"""The Cluster Center of a drone fleet, rebuilt on clustercore: three servers, missions, and a thousand UAVs.

    python -m cluster_center [--uavs 1000] [--consul http://127.0.0.1:8500] [--data DIR] [--headless]

Run it in docs/examples, or with `make example`. docs/tutorial/cluster-center.md leads through it.

The Cluster Center: kinds.py, server.py, scheduler.py, desk.py, and fleet.py for the UAVs.
The story that is told with it: cable.py, center.py, story.py, checks.py, page.py, __main__.py.
"""
