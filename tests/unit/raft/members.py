"""Members of a cluster, and leaders of it, for the tests of membership."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from clustercore.raft.configuration import encode_configuration
from clustercore.raft.core import RaftCore
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import Configuration, LogIndex, NodeId, Server, Term, WriteId
from tests.unit.raft.building import appended, leader

__all__ = ["answer", "committed", "committed_leader", "joint", "members", "members_entry"]


def members(
    voters: str, *, learners: str = "", promoted: str = "", incarnations: dict[str, str] | None = None
) -> Configuration:
    """The configuration of cluster "test" with these voters and learners, of which some are to be promoted."""
    named = incarnations or {}
    servers = [Server(NodeId(name), incarnation=named.get(name, "")) for name in voters]
    servers += [
        Server(NodeId(name), is_voter=False, is_promoted=name in promoted, incarnation=named.get(name, ""))
        for name in learners + promoted
    ]
    return Configuration.with_servers(servers, cluster_id="test")


def joint(target: Configuration, old: str, *, leaving: str = "") -> Configuration:
    """C_old,new: the target, with old voters, of whom some are leaving."""
    gone = [Server(NodeId(name), is_voter=False, is_leaving=True) for name in leaving]
    old_voters = frozenset(map(NodeId, old))
    return Configuration.with_servers((*target.servers, *gone), old_voters=old_voters, cluster_id=target.cluster_id)


def members_entry(index: int, term: int, configuration: Configuration) -> Entry:
    """The entry that brings a configuration."""
    command = encode_configuration(configuration)
    return Entry.create(LogIndex(index), Term(term), EntryKind.CONFIGURATION, command)


def answer(core: RaftCore, peers: Iterable[str], now: float) -> None:
    """Let peers acknowledge the leader's whole log, and hear its newest round."""
    for peer in peers:
        state = core.state
        message = appended(state.current_term, state.log.last_index, state.log.last_index)
        core.receive(NodeId(peer), attrs.evolve(message, round=state.last_round), now)


def committed(core: RaftCore, peers: Iterable[str], now: float) -> None:
    """Let a leader's disk and these peers catch up, until nothing more happens."""
    for _ in range(3):
        core.storage_done(WriteId(core.state.last_write_id), now)
        answer(core, peers, now)


def committed_leader(configuration: Configuration, *, now: float = 1.0, incarnation: str = "") -> RaftCore:
    """Node ``a``, elected in term 1, whose no-op at index 1 is committed and known everywhere."""
    voters = "".join(sorted(configuration.voters))
    core = leader(voters, configuration=configuration, incarnation=incarnation)
    committed(core, configuration.peers_of(NodeId("a")), now)
    return core
