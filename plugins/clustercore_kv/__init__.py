"""The key-value store of clustercore: a state machine, its service on the node's own listener, and its client.

Keys are text of 1 to 1,024 bytes of UTF-8, in the order of those bytes; values are bytes, at most 1 MiB.
"""

from clustercore_kv.client import KeyValueClient
from clustercore_kv.client_watch import KeyValueWatch
from clustercore_kv.codec import decode_result, encode_command
from clustercore_kv.errors import MalformedSnapshot, WatchFellBehind
from clustercore_kv.limits import MAX_KEY_BYTES, MAX_SCAN_BYTES, MAX_SCAN_PAIRS, MAX_VALUE_BYTES
from clustercore_kv.machine import KeyValueMachine
from clustercore_kv.values import (
    Cas,
    CasResult,
    Command,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KvEvent,
    KvPair,
    Put,
    PutResult,
    Refused,
    Result,
    Scan,
    ScanResult,
)
from clustercore_kv.watch import EventBatch, Watcher

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_SCAN_BYTES",
    "MAX_SCAN_PAIRS",
    "MAX_VALUE_BYTES",
    "Cas",
    "CasResult",
    "Command",
    "Delete",
    "DeleteResult",
    "EventBatch",
    "Get",
    "GetResult",
    "KeyValueClient",
    "KeyValueMachine",
    "KeyValueWatch",
    "KvEvent",
    "KvPair",
    "MalformedSnapshot",
    "Put",
    "PutResult",
    "Refused",
    "Result",
    "Scan",
    "ScanResult",
    "WatchFellBehind",
    "Watcher",
    "decode_result",
    "encode_command",
]
