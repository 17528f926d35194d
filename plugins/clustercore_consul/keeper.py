"""Keeping one member registered: a task that registers it, says that it lives, and registers it again when it is lost.

An agent forgets: it is restarted without its data, it is told by the leader to deregister a node that was unwell, or it
takes out by itself what was critical for too long. The next beat finds out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

import trio

from clustercore.interfaces import Member, NodeHealth, NodeId
from clustercore_consul.catalog import service_id, to_registration, ttl_check_id
from clustercore_consul.client import ConsulClient, segment
from clustercore_consul.errors import ConsulError, ConsulUnknown
from clustercore_consul.options import ConsulOptions
from clustercore_consul.pacing import failure_pauses

__all__ = ["Keeper"]

log = logging.getLogger(__name__)

# How long the farewell of a node that stops may take, in seconds.
_FAREWELL_S = 1.0


class Keeper:
    """Keeps a member registered at the agent, over a connection of its own.

    Args:
        options: Of the plugin.
        member: What is to be registered.
        registrar: The node of this process.
        rng: For the pauses after failures.
        ask_health: Tells how the member is.
    """

    def __init__(
        self,
        options: ConsulOptions,
        member: Member,
        registrar: NodeId,
        rng: Random,
        ask_health: Callable[[], NodeHealth],
    ) -> None:
        self._options = options
        self._registrar = registrar
        self._service_id = service_id(options, member.node_id)
        self._pauses = failure_pauses(rng, options.beat_interval_s)
        self.member = member
        self._body = to_registration(options, member, registrar)
        # How often the registration was changed here, and which of these the agent has.
        self._edit = 1
        self._registered_edit = 0
        self._ask_health = ask_health
        # Set, and replaced by a new one, when there is something to do or something was done.
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._complaint = ""

    @property
    def is_on_behalf(self) -> bool:
        """Whether another node than this process's is kept registered."""
        return self.member.node_id != self._registrar

    def change(self, member: Member) -> None:
        """Register this from now on, under the same id.

        Raises: ConfigError if Consul can never take it; nothing changes then.
        """
        body = to_registration(self._options, member, self._registrar)
        self.member = member
        if body != self._body:
            self._body = body
            self._edit += 1
            self._notify()

    async def wait_registered(self) -> None:
        """Wait until the agent has what is to be registered as of now, or the keeper has ended."""
        edit = self._edit
        await trio.lowlevel.checkpoint()
        while self._registered_edit < edit and not self._ended.is_set():
            await self._progress.wait()

    async def run(self) -> None:
        """Keep it registered until ``stop``, or until cancelled: then it says that the node has gone, if it can."""
        try:
            with self._scope:
                async with ConsulClient(self._options) as client:
                    try:
                        while True:
                            await self._turn(client)
                    finally:
                        await self._say_farewell(client)
        finally:
            self._ended.set()
            self._tell_progress()

    async def stop(self) -> None:
        """End ``run``, without a farewell, and wait until it has ended."""
        # What is not registered has nothing to take leave of.
        self._registered_edit = 0
        self._scope.cancel()
        await self._ended.wait()

    async def _turn(self, client: ConsulClient) -> None:
        """Do what is due and wait until there is more to do."""
        wake = self._wake
        pause_s = self._options.beat_interval_s
        try:
            if self._registered_edit < self._edit:
                await self._register(client)
            else:
                await self._beat(client, *self._status())
        except ConsulUnknown as error:
            log.info("node %s is registered again: %s", self.member.node_id, error)
            self._registered_edit = 0
            # At once the first time; an agent that forgets each time is not asked without limit.
            pause_s = self._pauses.draw() if self._complaint else 0.0
            self._complaint = self._complaint or "it was forgotten"
        except ConsulError as error:
            pause_s = self._pauses.draw(error.retry_after_s)
            self._complain(str(error))
        else:
            if self._complaint:
                log.info("node %s is known to its Consul agent", self.member.node_id)
            self._complaint = ""
            self._pauses.reset()
        with trio.move_on_after(pause_s):
            await wake.wait()

    async def _register(self, client: ConsulClient) -> None:
        edit = self._edit
        await client.put("/v1/agent/service/register", self._body, query={"replace-existing-checks": "true"})
        self._registered_edit = edit
        self._tell_progress()
        status, note = self._status()
        if status != "passing":
            # It is registered as one that is well.
            await self._beat(client, status, note)

    def _status(self) -> tuple[str, str]:
        """Return what a beat says now: Consul's word for how the node is, and why, for people."""
        health = self._ask_health()
        if health.not_serving:
            return "critical", health.not_serving
        return ("warning", health.degraded) if health.degraded else ("passing", "")

    async def _beat(self, client: ConsulClient, status: str, note: str) -> None:
        """Say how the node is; without a check that takes this, ask whether it is still registered."""
        timeout_s = self._options.beat_timeout_s
        if "ttl" in self._options.checks:
            path = f"/v1/agent/check/update/{segment(ttl_check_id(self._service_id))}"
            await client.put(path, {"Status": status, "Output": note}, timeout_s=timeout_s)
        else:
            await client.get(f"/v1/agent/service/{segment(self._service_id)}", timeout_s=timeout_s)

    async def _say_farewell(self, client: ConsulClient) -> None:
        """Say that the node has stopped, so that nobody waits for its time to live to pass. Cannot be cancelled."""
        if not self._registered_edit or self._complaint or "ttl" not in self._options.checks:
            return
        with trio.CancelScope(deadline=trio.current_time() + _FAREWELL_S, shield=True):
            try:
                await self._beat(client, "critical", "the node has stopped")
            except ConsulError as error:
                log.info("node %s: its agent was not told that it stops: %s", self.member.node_id, error)

    def _complain(self, complaint: str) -> None:
        """Say what does not work, once."""
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("node %s cannot tell its Consul agent that it lives: %s", self.member.node_id, complaint)

    def _notify(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()
