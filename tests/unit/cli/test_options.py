"""From a table to a constructor's arguments: what is accepted, and how a mistake is named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType

import attrs
import pytest

from clustercore.interfaces import ConfigError, PluginError, StorageFull
from clustercore.runtime.structure import construct

if TYPE_CHECKING:
    from decimal import Decimal

Name = NewType("Name", str)
WHERE = "node.toml: [transport]"


class Mode(StrEnum):
    FAST = "fast"
    SAFE = "safe"


class Level(Enum):
    LOW = 1
    HIGH = 2


@attrs.frozen
class Tls:
    certificate: Path
    verify: bool = True


class Plugin:
    """Takes one option of every kind, by its name."""

    def __init__(
        self,
        *,
        text: str = "",
        name: Name = Name(""),
        count: int = 0,
        share: float = 0.0,
        flag: bool = False,
        day: date | None = None,
        path: Path | None = None,
        path_or_text: str | os.PathLike[str] = "",
        names: Sequence[str] = (),
        anything: Iterable[int] = (),
        pair: tuple[str, int] = ("", 0),
        some: list[str] | None = None,
        members: Mapping[str, int] | None = None,
        mode: Mode = Mode.SAFE,
        level: Level = Level.LOW,
        choice: Literal["on", "off", 3] = "on",
        noted: Annotated[int, "of a kind"] = 0,
        tls: Tls | None = None,
        raw: bytes = b"",
        untyped: Any = None,
        strange: object = None,
        foreign: memoryview | None = None,
    ) -> None:
        self.options = {name: value for name, value in locals().items() if name != "self"}


def made(**table: object) -> Any:
    """Return the one option of the table, as the constructor got it."""
    plugin = construct(Plugin, table, WHERE, folder=Path("/etc/cluster"))
    return plugin.options[next(iter(table))]


def refusal(factory: Any, table: Mapping[str, object], **given: Any) -> str:
    """Return the text of the ConfigError."""
    with pytest.raises(ConfigError) as caught:
        construct(factory, table, WHERE, **given)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"text": "a"}, "a"),
        ({"name": "n1"}, "n1"),
        ({"count": 3}, 3),
        ({"share": 0.5}, 0.5),
        ({"share": 2}, 2.0),
        ({"flag": True}, True),
        ({"day": date(2024, 2, 29)}, date(2024, 2, 29)),
        ({"path": "n1.db"}, Path("/etc/cluster/n1.db")),
        ({"path": "/var/n1.db"}, Path("/var/n1.db")),
        ({"path_or_text": "n1.db"}, Path("/etc/cluster/n1.db")),
        ({"names": ["a", "b"]}, ("a", "b")),
        ({"anything": [1, 2]}, (1, 2)),
        ({"pair": ["a", 1]}, ("a", 1)),
        ({"some": ["a"]}, ["a"]),
        ({"members": {"a": 1}}, {"a": 1}),
        ({"mode": "fast"}, Mode.FAST),
        ({"level": 2}, Level.HIGH),
        ({"choice": 3}, 3),
        ({"noted": 4}, 4),
        ({"tls": {"certificate": "c.pem"}}, Tls(Path("/etc/cluster/c.pem"))),
        ({"untyped": [1, "a"]}, [1, "a"]),
    ],
)
def test_option_gets_a_value_of_its_type(table: dict[str, object], expected: object) -> None:
    """A value that has the annotated type arrives; relative paths are relative to the given folder."""
    value = made(**table)

    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"text": 1}, "text = 1 is not allowed; it must be a string"),
        ({"name": 1}, "name = 1 is not allowed; it must be a string"),
        ({"count": "7"}, 'count = "7" is not allowed; it must be a whole number'),
        ({"count": 7.0}, "count = 7.0 is not allowed; it must be a whole number"),
        ({"count": True}, "count = true is not allowed; it must be a whole number"),
        ({"share": "0.5"}, 'share = "0.5" is not allowed; it must be a number'),
        ({"share": True}, "share = true is not allowed; it must be a number"),
        ({"flag": 1}, "flag = 1 is not allowed; it must be true or false"),
        ({"flag": "yes"}, 'flag = "yes" is not allowed; it must be true or false'),
        ({"day": "today"}, 'day = "today" is not allowed; it must be a date'),
        ({"path": 1}, "path = 1 is not allowed; it must be a path"),
        ({"path": ""}, 'path = "" is not allowed; it must be a path'),
        ({"path_or_text": 1}, "path_or_text = 1 is not allowed; it must be a string or a path"),
        ({"names": "ab"}, 'names = "ab" is not allowed; it must be a list, each item a string'),
        ({"names": ["a", 1]}, "names[1] = 1 is not allowed; it must be a string"),
        ({"pair": ["a"]}, 'pair = ["a"] is not allowed; it must have 2 items'),
        ({"pair": ["a", "b"]}, 'pair[1] = "b" is not allowed; it must be a whole number'),
        ({"some": ["a", 1]}, "some[1] = 1 is not allowed; it must be a string"),
        ({"members": ["a"]}, 'members = ["a"] is not allowed; it must be a table, each value a whole number'),
        ({"members": {"n2": "x"}}, 'members.n2 = "x" is not allowed; it must be a whole number'),
        ({"mode": "slow"}, 'mode = "slow" is not allowed; it must be one of "fast", "safe"'),
        ({"level": True}, "level = true is not allowed; it must be one of 1, 2"),
        ({"choice": "3"}, 'choice = "3" is not allowed; it must be one of "on", "off", 3'),
        ({"noted": "4"}, 'noted = "4" is not allowed; it must be a whole number'),
        ({"tls": "c.pem"}, 'tls = "c.pem" is not allowed; it must be a table of certificate, verify'),
        ({"tls": {}}, "tls.certificate is missing; it must be a path"),
        ({"tls": {"certificate": "c", "verfy": 1}}, "tls.verfy = 1 is not a known key; did you mean 'verify'?"),
        ({"raw": "x"}, 'raw = "x" is not allowed; it must be bytes, which a file cannot hold'),
        ({"foreign": "x"}, "foreign"),
        ({"cuont": 1}, "cuont = 1 is not a known key; did you mean 'count'? allowed: text, name, count,"),
        ({"text": ["x" * 100]}, 'text = ["' + "x" * 58 + "... is not allowed"),
    ],
)
def test_option_of_another_type_is_refused(table: dict[str, object], complaint: str) -> None:
    """A mistake is told with file, table, key, value and what is allowed; nothing is converted in silence."""
    text = refusal(Plugin, table)

    assert text.startswith(f"{WHERE}: {complaint}")


def test_required_option_that_is_missing_is_named() -> None:
    """A parameter without default must be in the table, and the error says what it must be."""

    def factory(members: Mapping[str, str], size: int = 1) -> None:
        """Take one required option."""

    assert refusal(factory, {}) == f"{WHERE}: members is missing; it must be a table, each value a string"


def test_factory_without_parameters_allows_no_key() -> None:
    """The list of what is allowed is not simply empty."""
    assert refusal(lambda: None, {"a": 1}) == f"{WHERE}: a = 1 is not a known key; no key is allowed here"


def test_given_argument_is_no_key_of_the_table() -> None:
    """What the program sets itself cannot be set, or seen, in the file."""

    def factory(size: int, clock: object) -> tuple[int, object]:
        return size, clock

    assert construct(factory, {"size": 1}, WHERE, given={"clock": "c"}) == (1, "c")
    assert refusal(factory, {"size": 1, "clock": 2}, given={"clock": "c"}).endswith(
        "clock = 2 is not a known key; allowed: size"
    )


def test_factory_that_takes_any_keyword_gets_it() -> None:
    """With ``**options`` a plugin says that it checks names itself; the options it does name are still checked."""

    def factory(size: int = 1, **options: object) -> dict[str, object]:
        return {"size": size, **options}

    assert construct(factory, {"size": 2, "other": "x"}, WHERE) == {"size": 2, "other": "x"}
    assert "size" in refusal(factory, {"size": "2", "other": "x"})


def test_value_error_of_the_constructor_is_told_with_its_place() -> None:
    """A value out of range is found by the constructor; the file and table are put before its words."""

    def factory(size: int) -> None:
        raise ValueError(f"size is {size}; it must be at least 1")

    assert refusal(factory, {"size": 0}) == f"{WHERE}: size is 0; it must be at least 1"


def test_value_error_of_a_nested_table_names_its_key() -> None:
    """A class inside an option checks itself, too."""

    @attrs.frozen
    class Inner:
        size: int = attrs.field(validator=attrs.validators.ge(1))

    def factory(inner: Any) -> None:
        """Take a nested table."""

    factory.__annotations__["inner"] = Inner

    assert refusal(factory, {"inner": {"size": 0}}).startswith(f'{WHERE}: inner = {{"size": 0}} is not allowed: ')


def test_other_error_of_the_constructor_becomes_a_plugin_error() -> None:
    """A bug in a plugin's constructor names the plugin, and its own error is chained."""

    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no")

    with pytest.raises(PluginError, match=r"Broken cannot be made: RuntimeError: no") as caught:
        construct(Broken, {}, WHERE)

    assert isinstance(caught.value.__cause__, RuntimeError)


def test_cluster_error_of_the_constructor_stays_what_it_is() -> None:
    """What is already typed is not wrapped."""

    class Full:
        def __init__(self) -> None:
            raise StorageFull("no space")

    with pytest.raises(StorageFull):
        construct(Full, {}, WHERE)


def test_annotation_only_for_type_checkers_is_named() -> None:
    """An annotation that cannot be resolved names the parameter and the remedy."""

    def factory(amount: Decimal) -> None:
        """Take what is imported under TYPE_CHECKING."""

    with pytest.raises(PluginError, match=r"parameter 'amount' cannot be resolved .*TYPE_CHECKING"):
        construct(factory, {"amount": 1}, WHERE)


def test_constructor_that_tells_no_parameters_is_named() -> None:
    """A callable without a signature cannot be configured, and says so."""
    with pytest.raises(PluginError, match="does not tell its parameters"):
        construct(getattr, {}, WHERE)
