"""Members from an environment variable, as containers are configured."""

from __future__ import annotations

import os

from clustercore.interfaces import ConfigError
from clustercore_static.discovery import StaticDiscovery
from clustercore_static.lines import parse_pairs

__all__ = ["EnvironmentDiscovery"]


class EnvironmentDiscovery(StaticDiscovery):
    """Knows the members that an environment variable names, as ``n1=host1:7101,n2=host2:7101``.

    It is read once, when this object is made: a process cannot see that its environment was to be another.

    Args:
        variable: Its name.

    Raises:
        ConfigError: it is not set, or a pair in it is wrong; the text says which.
    """

    source = "environment"

    def __init__(self, variable: str = "CLUSTERCORE_MEMBERS") -> None:
        text = os.environ.get(variable)
        if text is None:
            raise ConfigError(
                f"the environment has no {variable}; set it to the nodes' ids and addresses, such as "
                "'n1=host1:7101,n2=host2:7101'"
            )
        super().__init__({member.node_id: member.address for member in parse_pairs(text, variable)})
