"""Changing the members (Raft §6, thesis chapter 4), at the leader.

A configuration counts from when it is in the log. So that two majorities that know of different ones always share a
voter, a new one follows only when the one before is committed, and

* differs from it by one voter at most (thesis §4.1), or
* is joint: C_old,new decides by a majority of the old voters and one of the new (thesis §4.3). When it is committed the
  leader, be it another by then, appends C_new by itself.

No leader changes anything before an entry of its own term is committed. Without that, two leaders could each begin with
a configuration that the other does not know (the bug of July 2015 in the single-server rule; Ongaro, raft-dev).

Besides what the owner asks for, a leader promotes learners that are to become voters and have caught up, and makes a
learner of a voter whose storage is not the one that the cluster counts on.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from clustercore.raft.check_quorum import hears_quorum_of
from clustercore.raft.commit import maybe_commit
from clustercore.raft.configuration import encode_configuration
from clustercore.raft.effects import ConfigurationAppended, ConfigurationRefused
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.leadership_transfer import best_successor, tell_to_stand
from clustercore.raft.progress import Progress
from clustercore.raft.replication import maybe_append_to_all
from clustercore.raft.roles import follow_configuration, step_down
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, ChangeRefusal, Configuration, LogIndex, NodeId, Role, Server

__all__ = ["change_configuration", "found", "maybe_leave", "maybe_promote_or_readmit", "peer_identified"]


# --- What the owner asks for ---


def found(state: RaftState, now: float) -> None:
    """Make this node the sole first voter of a cluster, which it forms when it has elected itself (thesis §4.4).

    Only a node that took part in nothing: it knows of no members, and helped nobody to form a cluster. Anything else
    is left as it is, for the word of a leader may have come just before.
    """
    if state.configuration.servers or state.log.last_index > BEFORE_LOG or state.is_founder:
        return
    state.configurations.reset(BEFORE_LOG, Configuration.of([state.node_id]))
    follow_configuration(state, now)
    # There is nobody to wait for.
    state.election_deadline = max(now, state.leader_protected_until)


def change_configuration(state: RaftState, target: Configuration, now: float) -> None:
    """Begin to change the members to ``target``; ConfigurationAppended or ConfigurationRefused comes first.

    The core fills in what only it knows: the cluster's id where the target names none, and the voters' incarnations.
    """
    refusal = _not_now(state) or _never(state, target)
    if refusal is None:
        target = _completed(state, target)
        refusal = _not_so(state, target, now)
    if refusal is not None:
        state.emit(refusal)
        return
    state.emit(ConfigurationAppended(state.current_term, LogIndex(state.log.last_index + 1)))
    _begin(state, target, now)


def _not_now(state: RaftState) -> ConfigurationRefused | None:
    """Say why the leader can begin no change at all now; None if it can."""
    if state.role is not Role.LEADER:
        leader = f"ask {state.leader_id!r}" if state.leader_id is not None else "no leader is known"
        return ConfigurationRefused(ChangeRefusal.NOT_LEADER, f"{state.node_id!r} does not lead; {leader}")
    if state.transfer is not None:
        return ConfigurationRefused(
            ChangeRefusal.TRANSFERRING, f"{state.node_id!r} is handing over to {state.transfer.target!r}; ask again"
        )
    if state.configuration.is_joint or not state.is_configuration_committed:
        return ConfigurationRefused(
            ChangeRefusal.CHANGE_PENDING,
            f"the change at index {state.configurations.latest_index} is not finished; ask again when it is",
        )
    if not state.has_committed_in_term:
        return ConfigurationRefused(
            ChangeRefusal.TERM_NOT_COMMITTED,
            f"{state.node_id!r} has committed nothing in its term {state.current_term} yet; ask again",
        )
    return None


def _never(state: RaftState, target: Configuration) -> ConfigurationRefused | None:
    """Say why ``target`` can never be a target here; None if it can."""
    if target.is_joint or any(server.is_leaving for server in target.servers):
        problem = "it is joint; name only the members that are to be"
    elif target.cluster_id not in ("", state.configuration.cluster_id):
        problem = f"it is of cluster {target.cluster_id!r}, this is {state.configuration.cluster_id!r}"
    elif not target.voters:
        problem = "it has no voter; name one at least"
    elif any(not server.node_id for server in target.servers):
        problem = "a server in it has no node id; name each"
    else:
        return None
    return ConfigurationRefused(ChangeRefusal.INVALID, f"the target cannot be: {problem}")


def _not_so(state: RaftState, target: Configuration, now: float) -> ConfigurationRefused | None:
    """Say why the leader does not begin this very change now; None if it does."""
    if target == state.configuration:
        return ConfigurationRefused(ChangeRefusal.UNCHANGED, "these are the members already")
    timeout_s = state.config.election_timeout_s
    for voter in sorted(target.voters - state.configuration.voters):
        progress = state.progress.get(voter)
        if progress is None:
            return ConfigurationRefused(
                ChangeRefusal.NOT_CAUGHT_UP, f"{voter!r} is no member yet; add it as a learner first"
            )
        if not progress.has_caught_up(timeout_s, now):
            return ConfigurationRefused(
                ChangeRefusal.NOT_CAUGHT_UP,
                f"learner {voter!r} lacks {state.log.last_index - progress.match_index} entries, or takes longer than "
                f"{timeout_s} s for what is new; ask again when it has caught up, or let it be promoted by itself",
            )
        if not _knows_its_storage(state, voter):
            return ConfigurationRefused(
                ChangeRefusal.NOT_CAUGHT_UP,
                f"learner {voter!r} does not know yet that it is counted with the storage that it has; ask again",
            )
    wiped = sorted(voter for voter in target.voters if state.is_wiped(voter))
    if wiped and 2 * len(wiped) >= len(target.voters):
        return ConfigurationRefused(
            ChangeRefusal.NO_QUORUM,
            f"{sorted(target.voters)} could elect nobody: {wiped} lost their disks, and do not vote until they have "
            "caught up as learners; ask again then",
        )
    if not hears_quorum_of(state, target, now):
        return ConfigurationRefused(
            ChangeRefusal.NO_QUORUM,
            f"no majority of {sorted(target.voters)} answered within the last {timeout_s} s, so nothing could be "
            "committed; bring them back first, or remove those that are gone",
        )
    return None


def _completed(state: RaftState, target: Configuration) -> Configuration:
    """Fill in what the owner of the target need not know."""
    servers = tuple(_completed_server(state, server) for server in target.servers)
    return Configuration(servers, cluster_id=state.configuration.cluster_id)


def _completed_server(state: RaftState, server: Server) -> Server:
    known = state.configuration.get(server.node_id)
    if known is not None and known.is_voter:
        # The cluster counts on this storage until it has been a learner again.
        incarnation = known.incarnation
    else:
        incarnation = _incarnation_of(state, server.node_id) or server.incarnation
    return attrs.evolve(server, is_promoted=server.is_promoted and not server.is_voter, incarnation=incarnation)


def _incarnation_of(state: RaftState, member: NodeId) -> str:
    """Return the storage that a member has now, as far as this node knows."""
    known = state.configuration.get(member)
    return state.incarnations.get(member, known.incarnation if known is not None else "")


# --- What the leader does by itself ---


def maybe_leave(state: RaftState, now: float) -> None:
    """As leader, leave a joint configuration that is committed; step down if the committed one does without this node.

    A leader that is not in C_new leads until that is committed, though it counts itself in no majority (thesis §4.2.2):
    only then it is certain that the new voters can elect one of their own.
    """
    configuration = state.configuration
    if not configuration.is_joint and state.node_id in configuration.voters:
        return
    if not _is_free_to_change(state):
        return
    if configuration.is_joint:
        stay = tuple(server for server in configuration.servers if not server.is_leaving)
        _append(state, attrs.evolve(configuration, servers=stay, old_voters=frozenset()), now)
        return
    successor = best_successor(state, now)
    if successor is not None:
        tell_to_stand(state, successor)
    step_down(state, now)


def maybe_promote_or_readmit(state: RaftState, now: float) -> None:
    """As leader, name members that lost their disk anew, and make voters of learners that have caught up."""
    if state.configuration.is_joint or not _is_free_to_change(state):
        return
    for target in (_without_wiped(state), _with_promoted(state, now)):
        # Nothing may be begun that cannot be committed.
        if target is not None and hears_quorum_of(state, target, now):
            _begin(state, target, now)
            return


def peer_identified(state: RaftState, peer: NodeId, incarnation: str) -> None:
    """Note which storage a member has now.

    If it is another one than before, what the old one acknowledged is not on it: the leader begins with it anew.
    """
    if peer not in state.configuration.members or peer == state.node_id:
        return
    before = _incarnation_of(state, peer)
    state.incarnations[peer] = incarnation
    progress = state.progress.get(peer)
    if progress is not None and before not in ("", incarnation):
        # From the last entry on, so that there is something to ask it with, be nothing new appended for long: what it
        # lacks shows only in an answer to entries. A leader's log has one at least.
        state.progress[peer] = Progress(
            state.log.last_index, last_contact=progress.last_contact, catch_up_target=state.log.last_index
        )


def _is_free_to_change(state: RaftState) -> bool:
    return (
        state.role is Role.LEADER
        and state.transfer is None
        and state.is_configuration_committed
        and state.has_committed_in_term
    )


def _without_wiped(state: RaftState) -> Configuration | None:
    """Return the configuration in which the first member known to have lost its disk has another; None without one.

    A voter is a learner in it, which is promoted when it has caught up. A learner stays what it is: it is named anew so
    that it may vote once it is a voter (``_knows_its_storage``).
    """
    servers = state.configuration.servers
    wiped = min(
        (server for server in servers if state.is_wiped(server.node_id)),
        key=lambda server: (not server.is_voter, server.node_id),
        default=None,
    )
    if wiped is None:
        return None
    readmitted = attrs.evolve(
        wiped,
        is_voter=False,
        is_promoted=wiped.is_voter or wiped.is_promoted,
        incarnation=state.incarnations[wiped.node_id],
    )
    return _with_changed(state, {wiped.node_id: readmitted})


def _knows_its_storage(state: RaftState, learner: NodeId) -> bool:
    """Say whether a learner has the members that name the storage it has now: until then it votes for nobody.

    As a voter it may be the one whose vote decides, before the leader has sent it anything more. Were it to wait for a
    leader then, and a leader for its vote, there would never be one again.
    """
    named = state.configuration.incarnations.get(learner, "")
    is_named = named in ("", _incarnation_of(state, learner))
    return is_named and state.progress[learner].match_index >= state.configurations.latest_index


def _with_promoted(state: RaftState, now: float) -> Configuration | None:
    """Return the configuration in which all learners that are due are voters; None without one."""
    timeout_s = state.config.election_timeout_s
    due = {
        server.node_id: Server(server.node_id, incarnation=_incarnation_of(state, server.node_id))
        for server in state.configuration.servers
        if server.is_promoted
        and state.progress[server.node_id].has_caught_up(timeout_s, now)
        and _knows_its_storage(state, server.node_id)
    }
    return _with_changed(state, due) if due else None


def _with_changed(state: RaftState, changed: Mapping[NodeId, Server]) -> Configuration:
    """Return the present configuration with some servers changed, but where they were."""
    servers = (
        attrs.evolve(changed.get(server.node_id, server), address=server.address)
        for server in state.configuration.servers
    )
    return attrs.evolve(state.configuration, servers=tuple(servers))


# --- Putting a configuration in the log ---


def _begin(state: RaftState, target: Configuration, now: float) -> None:
    """Append ``target`` if a majority of it shares a voter with every majority of the present one; else C_old,new."""
    present = state.configuration
    if len(present.voters ^ target.voters) > 1:
        removed = present.voters - {server.node_id for server in target.servers}
        leaving = (
            attrs.evolve(server, is_voter=False, is_leaving=True)
            for server in present.servers
            if server.node_id in removed
        )
        target = Configuration.with_servers(
            (*target.servers, *leaving), old_voters=present.voters, cluster_id=target.cluster_id
        )
    _append(state, target, now)


def _append(state: RaftState, configuration: Configuration, now: float) -> None:
    """Put a configuration in the log: it counts at once, for the entries before it too."""
    index = LogIndex(state.log.last_index + 1)
    # Where it is in the log says since when it counts.
    command = encode_configuration(attrs.evolve(configuration, index=BEFORE_LOG))
    state.persist_entries((Entry.create(index, state.current_term, EntryKind.CONFIGURATION, command),), now)
    follow_configuration(state, now)
    # Fewer voters may suffice for what is in the log.
    maybe_commit(state)
    maybe_append_to_all(state, now)
