"""Members from the configuration, a file or the environment: the discoveries that ask nobody."""

from clustercore_static.discovery import StaticDiscovery
from clustercore_static.environment import EnvironmentDiscovery
from clustercore_static.file import FileDiscovery

__all__ = ["EnvironmentDiscovery", "FileDiscovery", "StaticDiscovery"]
