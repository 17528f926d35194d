"""EntityKind: what can be declared, and how entities become values and come back."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Any

import attrs
import pytest

from clustercore.interfaces import ConfigError, HybridTime, InvalidCommand
from clustercore.sync import EntityKind, FieldGroup
from clustercore_lww import MaxResolver
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav


class Phase(Enum):
    OPEN = "open"
    SHUT = "shut"


@attrs.frozen
class Area:
    area_id: str
    corners: tuple[tuple[float, float], ...]
    phase: Phase = Phase.OPEN
    changed: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    _note: str = ""


# What a type checker would refuse.
ONE_NAME: Any = "status"
NO_RESOLVER: Any = MaxResolver

AREA = EntityKind("area", Area, id_field="area_id", updated_field="changed")


def test_key_fields_make_key_groups() -> None:
    """The groups that have a key field in them are the key groups; without groups the key fields are one."""
    assert MISSION.key_groups == {"progress"}
    assert UAV.key_groups == {"status", "heartbeat", "mission"}
    plain = EntityKind("uav", Uav, key_fields=("status", "last_heartbeat"))
    assert {name: group.fields for name, group in plain.groups.items()} == {
        "key": ("status", "last_heartbeat"),
        "rest": ("current_mission_id",),
    }
    assert plain.key_groups == {"key"}
    assert EntityKind("uav", Uav).key_groups == frozenset()
    assert repr(plain) == "EntityKind('uav', Uav)"


def test_values_are_canonical_and_structured() -> None:
    """What attrs and cattrs can say comes back as it was; id and moment are filled in."""
    area = Area("a1", ((1.5, 2.0), (3.0, 4.0)), Phase.SHUT, note="\u00e4")
    values = AREA.unstructure(area, {})
    assert values == {"rest": '{"_note":"\u00e4","corners":[[1.5,2.0],[3.0,4.0]],"phase":"shut"}'.encode()}

    back = AREA.structure("a1", dict(values), HybridTime(1_700_000_000_123))
    assert back == attrs.evolve(area, changed=datetime(2023, 11, 14, 22, 13, 20, 123000, UTC))


def test_entity_without_a_field_that_has_no_default_is_not_there_yet() -> None:
    """A part of an entity is none; fields with a default may be missing."""
    assert MISSION.structure("m1", {"rest": b'{"name":"x"}'}, HybridTime(0)) is None
    assert MISSION.structure("m1", {"progress": b'{"progress":1,"state":"x"}'}, HybridTime(7)) == Mission("x", 1, "", 7)
    with pytest.raises(ValueError, match="progress is 'much'"):
        MISSION.structure("m1", {"progress": b'{"progress":"much","state":"x"}'}, HybridTime(0))
    with pytest.raises(ValueError, match="a JSON object"):
        MISSION.structure("m1", {"progress": b"[]"}, HybridTime(0))


def test_what_is_no_value_is_refused() -> None:
    """Another class, a field that is not there or derived, and what JSON cannot say."""
    with pytest.raises(InvalidCommand, match="of Mission, not Uav"):
        MISSION.unstructure(Uav("idle"), {})  # type: ignore[arg-type]  # that is the point
    with pytest.raises(InvalidCommand, match="altitude"):
        UAV.change({"altitude": 5}, {})
    with pytest.raises(InvalidCommand, match="no JSON value"):
        AREA.unstructure(Area("a1", ((float("nan"), 0.0),)), {})


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("names the field 'height'", {"key_fields": ["height"]}),
        ("names the field 'height'", {"groups": {"x": ["height"]}}),
        ("in another group", {"groups": {"x": ["status"], "y": ["status"]}}),
        ("has no fields", {"groups": {"x": []}}),
        ("'rest' has others", {"groups": {"rest": ["status"]}}),
        ("name of a field group", {"groups": {"": ["status"]}}),
        ("in another group, or derived", {"groups": {"x": ["status"]}, "id_field": "status"}),
        ("key_fields: 'status' is one name", {"key_fields": "status"}),
        ("group 'x': 'status' is one name", {"groups": {"x": "status"}}),
        ("group 'x': 'status' is one name", {"groups": {"x": FieldGroup(ONE_NAME)}}),
        ("resolver is <class .*; it must be", {"groups": {"x": FieldGroup(("status",), NO_RESOLVER)}}),
        ("authority is 'raft'; it must be Authority.MERGE or Authority.RAFT", {"authority": "raft"}),
    ],
)
def test_declaration_is_checked(message: str, options: dict[str, Any]) -> None:
    """An error says which kind, group and field."""
    with pytest.raises(ConfigError, match=message):
        EntityKind("uav", Uav, **options)


def test_name_and_class_are_checked() -> None:
    """A kind has a name, and an attrs class."""
    with pytest.raises(ConfigError, match="name of an entity kind"):
        EntityKind("", Uav)
    with pytest.raises(ConfigError, match="no attrs class"):
        EntityKind("x", str)


def test_field_resolver_leaves_what_it_does_not_know() -> None:
    """A resolver of one field is asked about it; fields beside it are those of the later edit."""
    kind = EntityKind("uav", Uav, groups={"beat": FieldGroup(("last_heartbeat",), MaxResolver())})
    resolver = kind.resolver_of("beat")
    assert resolver is not None
    assert kind.resolver_of("rest") is None
    assert kind.resolver_of("unheard of") is None
    assert not kind.is_weak("unheard of")
