"""A transport and a storage inside one process, for tests and examples. Nothing here survives the process."""

from clustercore_memory.network import MemoryNetwork
from clustercore_memory.quality import LinkQuality
from clustercore_memory.storage import MemoryStorage
from clustercore_memory.transport import MemoryTransport

__all__ = ["LinkQuality", "MemoryNetwork", "MemoryStorage", "MemoryTransport"]
