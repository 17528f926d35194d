"""What every message must satisfy before it may touch the state, whoever sent it.

A node that runs clustercore never sends anything else; a foreign client can. A malformed message is refused or ignored,
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from clustercore.raft.configuration import MalformedConfiguration, configurations_in
from clustercore.raft.entry import Entry
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RaftMessage,
    RequestVoteRequest,
    TimeoutNowRequest,
)
from clustercore.raft.types import Configuration, NodeId

__all__ = ["MAX_NUMBER", "is_well_formed"]

# Terms and indexes stay below this, so that adding to one never leaves a signed 64-bit column on disk. At a million
# entries a second it lasts 146,000 years.
MAX_NUMBER = 2**62


def is_well_formed(message: RaftMessage, receiver: NodeId) -> bool:
    """Say whether a message's fields make sense together, at this receiver.

    A request in the receiver's own name came back to it, by an address that leads to the wrong node. It must not count:
    a candidate would grant itself, for its own vote, the vote of the node it meant to ask.
    """
    # A node that has seen no election answers a pre-vote in term 0; nothing else is said in it.
    if not (0 if isinstance(message, PreVoteResponse) else 1) <= message.term <= MAX_NUMBER:
        return False
    match message:
        case RequestVoteRequest() | PreVoteRequest():
            # A candidate has raised its term above that of any entry it holds.
            return message.candidate_id not in ("", receiver) and _is_position(
                message.last_log_index, message.last_log_term, message.term - 1
            )
        case AppendEntriesRequest():
            return (
                message.leader_id not in ("", receiver)
                and _is_position(message.prev_log_index, message.prev_log_term, message.term)
                and _is_number(message.leader_commit)
                and _are_consecutive(message)
            )
        case InstallSnapshotRequest():
            return (
                message.leader_id not in ("", receiver)
                and message.metadata.last_included_index > 0
                and _is_position(
                    message.metadata.last_included_index, message.metadata.last_included_term, message.term
                )
                and message.metadata.snapshot_id != ""
                and _is_number(message.offset)
                and (message.is_last or message.data != b"")
                # An older version's names nobody.
                and (message.metadata.configuration == Configuration() or _can_count(message.metadata.configuration))
            )
        case AppendEntriesResponse():
            numbers = (message.prev_log_index, message.match_index, message.conflict_term, message.conflict_index)
            return all(_is_number(number) for number in numbers)
        case InstallSnapshotResponse():
            return _is_number(message.match_index) and _is_number(message.next_offset)
        case PreVoteResponse():
            return _is_number(message.candidate_term)
        case TimeoutNowRequest():
            return message.leader_id not in ("", receiver)
        case _:
            return True


def _is_number(value: int) -> bool:
    return 0 <= value <= MAX_NUMBER


def _is_position(index: int, term: int, last_term: int) -> bool:
    """Whether these can be an entry's index and term, or 0 and 0 for "before the log"."""
    return _is_number(index) and 0 <= term <= last_term and (index == 0) == (term == 0)


def _are_consecutive(message: AppendEntriesRequest) -> bool:
    """Whether the entries follow prev_log_index one by one, with terms that never fall and never pass the leader's."""
    entries = message.entries
    if not entries:
        return True
    return (
        entries[0].index == message.prev_log_index + 1
        and message.prev_log_term <= entries[0].term
        and all(before.index + 1 == after.index and before.term <= after.term for before, after in pairwise(entries))
        and entries[-1].term <= message.term
        and entries[-1].index <= MAX_NUMBER
        and _have_counting_members(entries)
    )


def _have_counting_members(entries: Sequence[Entry]) -> bool:
    try:
        return all(_can_count(configuration) for _, configuration in configurations_in(entries))
    except MalformedConfiguration:
        return False


def _can_count(configuration: Configuration) -> bool:
    """Whether these are members that could elect a leader: there is no log without one."""
    return configuration.is_formed and bool(configuration.voters)
