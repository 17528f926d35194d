"""Members as Consul's catalog has them, and a registration there that a node keeps itself."""

from clustercore_consul.discovery import ConsulDiscovery

__all__ = ["ConsulDiscovery"]
