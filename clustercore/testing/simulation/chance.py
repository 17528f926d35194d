"""Chance that one seed decides, on every version of Python alike.

Python promises for ``random.Random`` that ``random()`` gives the same numbers for the same seed in every version, and
for no other method. So the others are made of it here. ``getrandbits`` is the generator's own output, and ``uniform``
one multiplication; both are left as they are, and a test compares the versions that are installed.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

__all__ = ["Chance"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Indexed(Protocol[T_co]):
    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> T_co: ...


class Chance(Random):
    """A generator of which one seed decides everything.

    Args:
        seed: A number or a text. ``chance.part("disk")`` is a generator of its own that the same seed decides, so that
            one more draw here changes nothing there.
    """

    def __init__(self, seed: int | str) -> None:
        super().__init__(seed)
        self._name = str(seed)

    def part(self, name: str) -> Chance:
        """Return a generator that depends on this one's seed and the name, and on nothing drawn from this one."""
        return Chance(f"{self._name}/{name}")

    def below(self, limit: int) -> int:
        """Return a number from 0 to ``limit - 1``, each as likely."""
        # The product may be rounded up to the limit itself.
        return min(int(self.random() * limit), limit - 1)

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Return a number from the range, each as likely. Raises ValueError if it is empty."""
        numbers = range(start) if stop is None else range(start, stop, step)
        if not numbers:
            raise ValueError(f"{numbers} is empty")
        return numbers[self.below(len(numbers))]

    def randint(self, a: int, b: int) -> int:
        """Return a number from ``a`` to ``b``, both included."""
        return self.randrange(a, b + 1)

    def choice(self, seq: _Indexed[T]) -> T:
        """Return one of several, each as likely. Raises IndexError if there is none."""
        return seq[self.below(len(seq))]

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Put into another order, each as likely."""
        for place in range(len(x) - 1, 0, -1):
            other = self.below(place + 1)
            x[place], x[other] = x[other], x[place]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Return ``count`` of several, in an order by chance."""
        left = list(items)
        self.shuffle(left)
        return left[:count]

    def happens(self, share: float) -> bool:
        """Return True in this share of the calls, from 0 to 1."""
        return share > 0 and self.random() < share

    def exponential(self, mean: float) -> float:
        """Return a number of an exponential distribution: mostly below the mean, now and then several times that."""
        return -math.log(1.0 - self.random()) * mean
