"""Members from the configuration: the discovery that asks nobody."""

from clustercore_static.discovery import StaticDiscovery

__all__ = ["StaticDiscovery"]
