"""A name server that answers what a test scripts: also what a real one rarely says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

__all__ = ["ScriptedDns"]

Answer = Callable[[dns.message.Message], dns.message.Message | None]

_TTL = 0


class ScriptedDns:
    """Listens on a port of the loopback, in a thread of its own; tests change what it answers."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        # By name and kind of record: the lines of the answer, such as "30 0 0 7101 a.example.".
        self.zone: dict[tuple[str, str], list[str]] = {}
        # What is answered instead of the zone; None for nothing at all.
        self.script: Answer | None = self.answer_from_zone
        # The questions so far: name and kind.
        self.asked: list[tuple[str, str]] = []
        # How long a name is not there, in seconds, by the zone.
        self.negative_ttl_s = 0
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def tell_service(self, name: str, targets: Mapping[str, int], *, ttl_s: int = _TTL) -> None:
        """Answer SRV questions for a name with these targets and their ports, from the zone."""
        self.zone[name, "SRV"] = [f"{ttl_s} IN SRV 0 0 {port} {target}" for target, port in targets.items()]
        self.script = self.answer_from_zone

    def answer_from_zone(self, query: dns.message.Message) -> dns.message.Message:
        """Answer as a server that knows the zone and no other name."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        (question,) = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        lines = self.zone.get((name, kind), [])
        if lines:
            ttl = int(lines[0].split(" ", 1)[0])
            records = [line.split(" ", 3)[3] for line in lines]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *records))
        else:
            if not any(known == name for known, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            soa = f"ns.example. admin.example. 1 60 60 60 {self.negative_ttl_s}"
            response.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", soa))
        return response

    def refuse(self, query: dns.message.Message) -> dns.message.Message:
        """Answer that it could not find out."""
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            (question,) = query.question
            self.asked.append((question.name.to_text(), dns.rdatatype.to_text(question.rdtype)))
            answer = self.script(query) if self.script is not None else None
            if answer is not None:
                self._socket.sendto(answer.to_wire(), peer)
