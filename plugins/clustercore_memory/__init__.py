"""A transport, storages and a discovery inside one process, for tests and examples. Nothing survives the process."""

from clustercore_memory.discovery import MemoryDiscovery, MemoryRegistry, SourceFault
from clustercore_memory.network import MemoryNetwork
from clustercore_memory.quality import LinkQuality
from clustercore_memory.records import MemoryRecords
from clustercore_memory.storage import MemoryStorage
from clustercore_memory.transport import MemoryTransport

__all__ = [
    "LinkQuality",
    "MemoryDiscovery",
    "MemoryNetwork",
    "MemoryRecords",
    "MemoryRegistry",
    "MemoryStorage",
    "MemoryTransport",
    "SourceFault",
]
