"""Members from the Domain Name System: SRV records of a service, or the addresses of hosts."""

from clustercore_dns.discovery import DnsDiscovery

__all__ = ["DnsDiscovery"]
