"""The search for a linearization of one part of a history.

It is Wing and Gong's (1993): place an operation that no unplaced one precedes, go on, and step back where nothing can
be placed. Lowe (2017) adds that no two orders of the same operations with the same state in the end are both followed.
It knows histories and models, and nothing of reports; `linearizability` puts the parts together.

Three rules of our own cut what remains. None loses a linearization:

- *Absorbing.* An answered operation that may come next and is a read (it leaves every state that accepts it as it is:
  ``Model.is_read``) is placed at once and for good where it is accepted. If an order from here places it later, the
  same order with it in front is as good: nothing has to come before it, and nobody else notices it. So reads cost
  nothing once their value is there, and only writes are tried in several orders. A write that happens to find the
  state as it would leave it is no read: it may be needed later, when the state is another.
- *Fewer unknown ones are better.* What was reached with the same answered operations, the same state and a subset of
  the unknown ones is at least as good, because those left can still be placed later, or never. For the same reason one
  that changes nothing is not placed, and of several with the same input only the first.
- *Unknown ones have a purpose.* Of two orders that differ by an unknown operation, the one without it will do. So
  what comes directly after one must notice it: be refused without it, or leave another state.

Which operation is tried first decides how much of a long history is searched in vain. Where each write has a value of
its own, a write and the reads of its value occupy a zone from the first of their returns to the last of their calls,
in which no other write may be (Gibbons and Korach 1997). So operations are tried in the order of where their zones
end; who "reads" is found by asking the model. This is a guess that costs time where it is wrong, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeVar, cast

import attrs

from clustercore.testing.history import Operation, Outcome
from clustercore.testing.models import REFUSED, UNKNOWN, Model

__all__ = ["Search"]

State = TypeVar("State")
Input = TypeVar("Input")
Output = TypeVar("Output")

# The list of events begins here.
_HEAD = 0

# How many of the operations called next are asked whether they read what a write has written. It has to reach past
# those that are under way at one time, which are as many as there are clients.
_ASKED = 64

# States for which it is kept what each unknown operation makes of them: tens of MiB at most.
_MAX_KEPT_STATES = 20_000


@attrs.define(eq=False)
class _Choice(Generic[State]):
    """One choice of the search, with what is needed to take it back."""

    # What was chosen: the number of an answered operation, or ~number of an unknown one. None at the very beginning.
    chosen: int | None
    # The answered operations that were then absorbed.
    absorbed: list[int]
    # The state before.
    state_before: State
    # What may be chosen next, with the state after it; the last is tried first.
    branches: list[tuple[int, State]]
    # Whether the branches are those of the answered operations only.
    has_unknown_left: bool = True


class Search(Generic[State, Input, Output]):
    """One search, made for one call of ``run``.

    Answered operations are numbered by their calls. Their calls and returns are the nodes of a doubly linked list, in
    the order in which they happened; placing an operation takes both its nodes out (Lowe's "lift"). What may come next
    is then every operation whose call is ahead of the first return in the list.
    """

    def __init__(
        self,
        model: Model[State, Input, Output],
        operations: Sequence[Operation[Input, Output]],
        max_steps: int,
    ) -> None:
        """Prepare a search of operations that are in the order of their calls, none of them NOT_DONE."""
        self._step = model.step
        self._is_read = model.is_read or (lambda input, output: False)
        self._max_steps = max_steps
        self.answered = [operation for operation in operations if operation.outcome is Outcome.ANSWERED]
        # A read that nobody heard the answer of says nothing.
        self.unknown = [
            operation
            for operation in operations
            if operation.outcome is Outcome.UNKNOWN and not self._is_read(operation.input, UNKNOWN)
        ]
        # How often the model was called.
        self.steps = 0
        # The order found: numbers of answered operations, ~numbers of unknown ones. A linearization if there is one,
        # otherwise the order that got past the most returns, among those the longest, and
        # among those the one with the fewest unknown operations.
        self.order: list[int] = []
        # The answered operation whose return the order does not get past; None if it is a linearization.
        self.stuck: int | None = None
        self._link_events()
        # Where the search is: its state, the answered and the unknown operations that are placed as bits, how many
        # answered ones are not placed, and how it came here.
        self._state = model.initial_state
        self._placed = 0
        self._placed_unknown = 0
        self._missing = len(self.answered)
        self._path: list[_Choice[State]] = []
        # Where it was: answered operations (the first that is missing, and the bits from there on), state, and the
        # state before an unknown operation that was not noticed yet, if one is; with the smallest sets of unknown ones.
        self._seen: dict[tuple[int, int, State, tuple[State, ...]], list[int]] = {}
        # How far ``order`` got: the node of ``stuck``'s return, minus how many operations it leaves out, and minus how
        # many unknown ones it uses.
        self._furthest = (-1, 0, 0)
        # State -> the first return and the last call of what reads it.
        self._zones: dict[State, tuple[float, float]] = {}
        # State -> the unknown operations that change it, in the order of their calls, with the states after.
        self._changes: dict[State, dict[int, State]] = {}
        # For each answered operation whether it is a read; for each unknown one those before it with the same input.
        self._reads = [self._is_read(operation.input, cast(Output, operation.output)) for operation in self.answered]
        self._alike = [
            sum(1 << other for other in range(number) if self.unknown[other].input == operation.input)
            for number, operation in enumerate(self.unknown)
        ]

    def _link_events(self) -> None:
        """Build the list of events. A node's number is its place in it; at one time, calls come before returns."""
        events = [(operation.called_at, 0, number) for number, operation in enumerate(self.answered)]
        events += [(operation.returned_at, 1, number) for number, operation in enumerate(self.answered)]
        # They have numbers, so that it can be said what they were called before, but are not in the list.
        events += [(operation.called_at, 0, ~number) for number, operation in enumerate(self.unknown)]
        events.sort()
        self._end = len(events) + 1
        # The operation whose call, or return, a node is; -1 for other nodes.
        self._called: list[int] = [-1] * (self._end + 1)
        self._returned: list[int] = [-1] * (self._end + 1)
        self._call_node = [0] * len(self.answered)
        self._return_node = [0] * len(self.answered)
        self._unknown_node = [0] * len(self.unknown)
        self._next = [self._end] * (self._end + 1)
        self._previous = [_HEAD] * (self._end + 1)
        last = _HEAD
        for node, (_, is_return, number) in enumerate(events, start=1):
            if number < 0:
                self._unknown_node[~number] = node
                continue
            if is_return:
                self._return_node[number], self._returned[node] = node, number
            else:
                self._call_node[number], self._called[node] = node, number
            self._next[last], self._previous[node] = node, last
            last = node
        self._next[last], self._previous[self._end] = self._end, last

    def run(self) -> bool:
        """Search until it is decided (return True) or the budget is spent (return False)."""
        self._enter(None, self._state)
        while self._missing:
            choice = self._path[-1]
            if self.steps > self._max_steps:
                self._note_dead_end()
                return False
            if choice.branches:
                if not self._enter(*choice.branches.pop()):
                    self._leave()
            elif choice.has_unknown_left:
                choice.has_unknown_left = False
                choice.branches = self._unknown_branches(choice)
            else:
                self._note_dead_end()
                if len(self._path) == 1:
                    return True
                self._leave()
        self.order, self.stuck = self._present_order(), None
        return True

    # --- Going on and stepping back ---

    def _enter(self, chosen: int | None, state: State) -> bool:
        """Place an operation and absorb others; return whether this place is worth searching."""
        choice = _Choice(chosen, [], self._state, [])
        self._path.append(choice)
        self._state = state
        if chosen is not None:
            if chosen >= 0:
                self._place(chosen)
            else:
                self._placed_unknown |= 1 << ~chosen
        self._absorb(choice)
        if not self._is_new(choice):
            return False
        if self._needs_purpose(choice):
            choice.branches = [branch for branch in choice.branches if self._is_noticed(choice, branch)]
        self._sort(choice)
        return True

    def _absorb(self, choice: _Choice[State]) -> None:
        """Go through all that may come next: place the reads, and gather what else the state accepts."""
        step, state, reads = self._step, self._state, self._reads
        node = self._next[_HEAD]
        # Placing takes nodes out while we walk, and so lets us see further: exactly as far as may come next.
        while (number := self._called[node]) >= 0:
            operation = self.answered[number]
            new_state = step(state, operation.input, cast(Output, operation.output))
            self.steps += 1
            if new_state is not REFUSED:
                if reads[number]:
                    self._place(number)
                    choice.absorbed.append(number)
                else:
                    choice.branches.append((number, new_state))
            node = self._next[node]

    def _unknown_branches(self, choice: _Choice[State]) -> list[tuple[int, State]]:
        """Return the unknown operations that may come next and change something."""
        bound, placed = self._bound(), self._placed_unknown
        branches: list[tuple[int, State]] = []
        for number, new_state in self._changes_of(self._state).items():
            if self._unknown_node[number] > bound:
                break
            # Of several with the same input, the first that is not placed; it may come next if any of them may.
            if not placed >> number & 1 and not self._alike[number] & ~placed:
                branches.append((~number, new_state))
        if self._needs_purpose(choice):
            branches = [branch for branch in branches if self._is_noticed(choice, branch)]
        branches.sort(key=self._zone_end, reverse=True)
        return branches

    def _changes_of(self, state: State) -> dict[int, State]:
        """Return all unknown operations that change a state, in the order of their calls, with the states after."""
        changes = self._changes.get(state)
        if changes is None:
            if len(self._changes) >= _MAX_KEPT_STATES:
                self._changes.clear()
            changes = self._changes[state] = {}
            for number, operation in enumerate(self.unknown):
                after = self._step(state, operation.input, UNKNOWN)
                if after is not REFUSED and after != state:
                    changes[number] = after
            self.steps += len(self.unknown)
        return changes

    def _needs_purpose(self, choice: _Choice[State]) -> bool:
        """Return whether what comes next must notice what was chosen: an unknown operation that nothing read yet."""
        return choice.chosen is not None and choice.chosen < 0 and not choice.absorbed

    def _is_noticed(self, choice: _Choice[State], branch: tuple[int, State]) -> bool:
        """Return whether a branch would be refused, or leave another state, had the choice not been made."""
        number, state = branch
        if number < 0:
            return self._changes_of(choice.state_before).get(~number, choice.state_before) != state
        operation = self.answered[number]
        self.steps += 1
        return self._step(choice.state_before, operation.input, cast(Output, operation.output)) != state

    def _is_new(self, choice: _Choice[State]) -> bool:
        """Return whether the search was nowhere at least as good before, and note that it is here."""
        # The first node is a call, that of the first operation which is missing; all before it are placed.
        first = max(self._called[self._next[_HEAD]], 0)
        place = (first, self._placed >> first, self._state)
        here = self._placed_unknown
        if self._is_covered(here, self._seen.get((*place, ()), ())):
            return False
        # Not everything that may come next will be tried here: that counts for arrivals from the same state only.
        before = (choice.state_before,) if self._needs_purpose(choice) else ()
        others = self._seen.setdefault((*place, before), [])
        if self._is_covered(here, others):
            return False
        others[:] = [other for other in others if other & here != here]
        others.append(here)
        return True

    def _is_covered(self, here: int, others: Sequence[int]) -> bool:
        return any(other & here == other for other in others)

    def _leave(self) -> None:
        """Take the last choice back."""
        choice = self._path.pop()
        for number in reversed(choice.absorbed):
            self._take_back(number)
        if choice.chosen is not None:
            if choice.chosen >= 0:
                self._take_back(choice.chosen)
            else:
                self._placed_unknown ^= 1 << ~choice.chosen
        self._state = choice.state_before

    def _place(self, number: int) -> None:
        """Take an operation's return and then its call out of the list; the call's node still leads on."""
        following, previous = self._next, self._previous
        for node in (self._return_node[number], self._call_node[number]):
            following[previous[node]] = following[node]
            previous[following[node]] = previous[node]
        self._placed |= 1 << number
        self._missing -= 1

    def _take_back(self, number: int) -> None:
        """Undo ``_place``; the last one placed is the first to be taken back."""
        following, previous = self._next, self._previous
        for node in (self._call_node[number], self._return_node[number]):
            following[previous[node]] = node
            previous[following[node]] = node
        self._placed ^= 1 << number
        self._missing += 1

    def _bound(self) -> int:
        """Return the node of the first return in the list: nothing called after it may come next."""
        node = self._next[_HEAD]
        while self._called[node] >= 0:
            node = self._next[node]
        return node

    # --- What to try first ---

    def _sort(self, choice: _Choice[State]) -> None:
        """Put the branches in the order of their zones' ends, and an unknown operation first if only that helps."""
        if not self._missing:
            return
        due = self._returned[self._bound()]
        if any(number == due for number, _ in choice.branches):
            pass
        elif not any(self._accepts(state, due) for _, state in choice.branches) and self.unknown:
            # What has to be placed at the latest now is refused, and no answered operation helps at once.
            choice.has_unknown_left = False
            unknown = self._unknown_branches(choice)
            helpful = [branch for branch in unknown if self._accepts(branch[1], due)]
            others = [branch for branch in unknown if branch not in helpful]
            choice.branches.sort(key=self._zone_end, reverse=True)
            choice.branches = [*others, *choice.branches, *helpful]
            return
        if len(choice.branches) > 1:
            choice.branches.sort(key=self._zone_end, reverse=True)

    def _accepts(self, state: State, number: int) -> bool:
        operation = self.answered[number]
        self.steps += 1
        return self._step(state, operation.input, cast(Output, operation.output)) is not REFUSED

    def _zone_end(self, branch: tuple[int, State]) -> float:
        """Return until when nothing else may be written if what this branch writes is to be read."""
        number, state = branch
        first_return, last_call = self._zone_of_readers(state)
        if number >= 0:
            operation = self.answered[number]
            first_return, last_call = min(first_return, operation.returned_at), max(last_call, operation.called_at)
        return max(first_return, last_call)

    def _zone_of_readers(self, state: State) -> tuple[float, float]:
        """Return the first return and last call among the next operations that need a state, and refuse the present."""
        zone = self._zones.get(state)
        if zone is None:
            first = max(self._called[self._next[_HEAD]], 0)
            readers = [
                self.answered[number]
                for number in range(first, min(first + _ASKED, len(self.answered)))
                if self._accepts(state, number) and not self._accepts(self._state, number)
            ]
            zone = self._zones[state] = (
                min((operation.returned_at for operation in readers), default=math.inf),
                max((operation.called_at for operation in readers), default=-math.inf),
            )
        return zone

    # --- What is said in the end ---

    def _present_order(self) -> list[int]:
        order: list[int] = []
        for choice in self._path:
            if choice.chosen is not None:
                order.append(choice.chosen)
            order += choice.absorbed
        return order

    def _note_dead_end(self) -> None:
        """Remember the order if it got further than any before."""
        bound = self._bound()
        here = (bound, -self._missing, -self._placed_unknown.bit_count())
        if here > self._furthest:
            self._furthest = here
            self.order, self.stuck = self._present_order(), self._returned[bound]
