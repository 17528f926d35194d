"""How a cluster comes to be where nobody names all its first voters: one node founds it, and the others are added.

Discovery says where nodes are, and may be wrong in every way, so nothing rests on it. The argument that there is one
cluster at most:

* Only the *founder* forms one, and which node that is follows from the configuration alone, the same on every node. Two
  groups of nodes that see nothing of each other do not both have the founder among them.
* The founder forms at most one: with itself as the sole voter (thesis §4.4), once it has looked the others in the face
  and enough of them wait for just this founder. What it forms is in its log, so that it never forms another; before
  that is durable, nobody else has heard of it.
* Everybody else only asks to be added to a cluster of this founder, as a learner that is promoted when it has caught
  up. A node that belongs to no cluster refuses links with any other, so it never takes a foreign log.
* The leader takes no commands before the cluster has as many voters as it is to begin with: nothing that is
  acknowledged is on fewer disks.

What discovery can do is to keep nodes from finding each other; while it does not answer, nothing is founded. A founder
whose storage is lost is new to itself; while its cluster is hidden from it, it founds another if enough nodes that are
new as well wait for it, and at once if it expects nobody else. So a founder that has lost its storage is started with
``join``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from clustercore.interfaces.discovery import DiscoverySnapshot
from clustercore.interfaces.errors import ConfigError, TransportError
from clustercore.interfaces.messages import StatusRequest, StatusResponse
from clustercore.interfaces.transport import Transport
from clustercore.interfaces.values import NodeStatus
from clustercore.raft.entry import EntryKind
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, NodeId
from clustercore.runtime.names import MAX_NAME_BYTES, name_fault
from clustercore.runtime.remote_node import RemoteNode
from clustercore.runtime.waiting import Waiting

__all__ = ["FirstVoters", "Founding", "FoundingWatch", "label_of"]

logger = logging.getLogger("clustercore")

# So many nodes are asked at the same time how they are: more than a cluster has, and few enough to open links to.
_MAX_ASKED_AT_ONCE = 16
# The cluster's id is longer by a hyphen and 32 hexadecimal digits.
_MAX_LABEL_BYTES = MAX_NAME_BYTES - 33
_NUMBER_AT_END = re.compile(r"\d+$", re.ASCII)


@attrs.frozen
class Founding:
    """How many voters a cluster is to begin with, and who founds it: the same on every node that is to be of it.

    Raises: ConfigError if ``expect`` is below 1.
    """

    # With so many voters it begins to take commands. More nodes may come at once, or later.
    expect: int
    # The node that forms the cluster. By default the one that is called as this node is, with the number 1: "n1" for
    # "n3", "kv-1" for "kv-0". It must be one of the first ``expect`` to come, so numbers begin at 0 or 1.
    founder: str = ""
    # A name for the cluster, where one discovery serves several whose founders have the same id.
    cluster: str = ""

    def __attrs_post_init__(self) -> None:
        if self.expect < 1:
            raise ConfigError(f"expect = {self.expect} is not allowed; it must be the number of voters, at least 1")

    def founder_for(self, node_id: NodeId) -> NodeId:
        """Return who forms the cluster of a node.

        Raises: ConfigError if that does not follow from the node's id, or would be another one with numbers from 0.
        """
        if self.founder:
            return NodeId(self.founder)
        number = _NUMBER_AT_END.search(node_id)
        if number is None:
            problem = f"node_id {node_id!r} does not end in a number"
        elif self.expect == 1:
            problem = "with expect = 1 it may be number 0 or number 1"
        else:
            return NodeId(node_id[: number.start()] + "1".zfill(len(number[0])))
        raise ConfigError(f"founder is not given, and {problem}; name the node that forms the cluster, on every node")

    def label(self, node_id: NodeId) -> str:
        """Return what the id of the cluster begins with, and what a node says that it waits for.

        Raises: ConfigError, as ``founder_for``, and if the label is too long.
        """
        founder = self.founder_for(node_id)
        label = f"{self.cluster}.{founder}" if self.cluster else founder
        if len(label.encode()) > _MAX_LABEL_BYTES:
            raise ConfigError(
                f"cluster and founder have {len(label.encode())} bytes together; at most {_MAX_LABEL_BYTES} are allowed"
            )
        return label


def label_of(cluster_id: str) -> str:
    """Return the label of a cluster that was founded; nonsense, or nothing, of any other."""
    return cluster_id.rpartition("-")[0]


class FirstVoters:
    """Says whether the cluster has had as many voters as it is to begin with.

    It needs no memory of its own: a log that has any command was open to commands before.
    """

    def __init__(self, expect: int, state: Callable[[], RaftState]) -> None:
        self._expect = expect
        self._state = state
        self._was_enough = False

    def are_there(self) -> bool:
        """Whether this node, as leader, may take commands."""
        if not self._was_enough:
            state = self._state()
            self._was_enough = len(state.configuration.voters) >= self._expect or _has_commands(state)
        return self._was_enough

    def __str__(self) -> str:
        voters = len(self._state().configuration.voters)
        return f"{voters} of the {self._expect} voters that the cluster is to begin with are there"


def _has_commands(state: RaftState) -> bool:
    log = state.log
    if log.base_index > BEFORE_LOG:
        return True
    own = (EntryKind.NO_OP, EntryKind.CONFIGURATION)
    return any(entry.kind not in own for entry in log.slice(log.first_index, log.last_index))


class FoundingWatch:
    """Looks for the cluster that this node is to be part of, and founds it where that is this node's task."""

    def __init__(
        self,
        node_id: NodeId,
        founding: Founding,
        *,
        transport: Transport,
        known: Callable[[], DiscoverySnapshot],
        found: Callable[[], None],
        timeout_s: float,
    ) -> None:
        """Do nothing yet.

        Args:
            node_id: This node.
            founding: As configured.
            transport: What to ask with.
            known: What discovery knows.
            found: Makes this node the sole voter of a cluster, if it is part of none.
            timeout_s: How long a node that is asked may take, in seconds.

        Raises: ConfigError if it is not clear who the founder is.
        """
        self._node_id = node_id
        self._expect = founding.expect
        self._founder = founding.founder_for(node_id)
        self.label = founding.label(node_id)
        self._transport = transport
        self._known = known
        self._found = found
        self._timeout_s = timeout_s
        self.waiting = Waiting(f"node {node_id}")
        # Where members of the cluster answered in the last look.
        self.members_at: tuple[str, ...] = ()

    async def look(self) -> bool:
        """Ask everybody whom discovery knows how it is; found the cluster if it is time. Return whether there is one.

        Cancellation: nothing happens.
        """
        snapshot = self._known()
        known = [member for member in snapshot.members if member.node_id != self._node_id]
        answers = await self._ask(member.address for member in known)
        self.members_at = tuple(
            address for address, status in answers.items() if label_of(status.configuration.cluster_id) == self.label
        )
        if self.members_at:
            self._look_at_cluster(list(answers.values()))
            return True
        waiting = {status.node_id for status in answers.values() if self._waits(status)}
        # A word of discovery's founds nothing, and is enough to found nothing.
        founded = [member.node_id for member in known if label_of(member.metadata.cluster_id) == self.label]
        tell = self.waiting.say
        if self._node_id != self._founder:
            tell(f"waits for node {self._founder} to found the cluster; it knows {_names(answers)}")
        elif snapshot.is_stale:
            # It may keep silent on a cluster that there is: with one expected, nobody else would speak against another.
            tell("founds no cluster before discovery answers")
        elif founded:
            tell(f"founds no cluster: discovery has {', '.join(founded)} in it already, and they do not answer")
        elif len(waiting) + 1 < self._expect:
            others = {status.node_id: status.founding for status in answers.values() if status.node_id not in waiting}
            strange = "".join(f"; node {one} waits for {what or 'nobody'}" for one, what in sorted(others.items()))
            tell(f"founds a cluster of {self._expect} once enough wait for it; now {sorted(waiting)}{strange}")
        else:
            tell(f"founds the cluster, and {', '.join(sorted(waiting)) or 'nobody'} may join it")
            self._found()
        return False

    def _waits(self, status: NodeStatus) -> bool:
        """Whether a node took part in nothing, and waits for this founder."""
        is_new = not status.configuration.servers and status.last_log_index == BEFORE_LOG
        return is_new and status.founding == self.label and status.node_id != self._node_id

    async def _ask(self, addresses: Iterable[str]) -> dict[str, NodeStatus]:
        answers: dict[str, NodeStatus] = {}
        limit = trio.CapacityLimiter(_MAX_ASKED_AT_ONCE)

        async def ask(address: str) -> None:
            async with limit:
                node = RemoteNode(self._transport, address, timeout_s=self._timeout_s)
                try:
                    answer = await node.ask(StatusRequest, _is_answer)
                except TransportError as error:
                    logger.debug("node %s: %s does not say how it is: %s", self._node_id, address, error)
                    return
                finally:
                    await node.aclose()
            assert isinstance(answer, StatusResponse)
            status = answer.status
            names = {"node_id": status.node_id, "founding": status.founding, "leader_id": status.leader_id or ""}
            too_long = name_fault({**names, "cluster_id": status.configuration.cluster_id})
            if too_long:
                # What it says would be repeated in the log.
                logger.debug("node %s: of what answers at %s %s", self._node_id, address, too_long)
            else:
                answers[address] = status

        async with trio.open_nursery() as nursery:
            for address in dict.fromkeys(addresses):
                nursery.start_soon(ask, address)
        return dict(sorted(answers.items()))

    def _look_at_cluster(self, answers: Sequence[NodeStatus]) -> None:
        """Say so if this node is the only voter of the cluster that there is, as far as it sees: it lost its storage.

        Its learners then wait for a leader for ever. Nothing is done about it here: the cluster may have had other
        voters since, whom this node does not see.
        """
        members = [status for status in answers if label_of(status.configuration.cluster_id) == self.label]
        if any(status.configuration.all_voters != {self._node_id} or status.leader_id for status in members):
            self.waiting.end()
            return
        ids = ", ".join(sorted({status.configuration.cluster_id for status in members}))
        names = ", ".join(sorted({status.node_id for status in members}))
        self.waiting.say(
            f"was the only voter of cluster {ids}, as {names} know it, and has lost its storage: that cluster has no "
            f"leader. Unless a node that is not seen here leads it, nothing was ever agreed on there: empty the "
            f"storages of {names}, and start them again"
        )


def _is_answer(answer: object, number: int) -> bool:
    return isinstance(answer, StatusResponse) and answer.request_id == number


def _names(answers: dict[str, NodeStatus]) -> str:
    return ", ".join(sorted({status.node_id for status in answers.values()})) or "nobody who answers"
