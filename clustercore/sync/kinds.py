"""Entity kinds: what a user declares, and how entities become the values of field groups and come back.

A *field group* is the unit of merge: its fields come from one write, so no entity appears that nobody wrote (a mission
that is COMPLETED at 40 %). A group's value is a JSON object of its fields, encoded in the one way that equal values
share. cattrs structures the fields, by the annotations of the attrs class.

Fields, and whole groups, that the class does not have come from nodes of a newer version. They are kept as they are,
and travel on: an older node that edits an entity leaves them alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Generic, TypeVar, get_type_hints

import attrs
from cattrs import Converter
from cattrs.errors import BaseValidationError
from cattrs.preconf.json import make_converter

from clustercore.interfaces import (
    ConfigError,
    ConflictDecision,
    ConflictResolver,
    Edit,
    HybridTime,
    InvalidCommand,
    last_write,
)

__all__ = ["LIFE_GROUP", "Authority", "EntityKind", "FieldGroup", "decode_fields", "encode_fields"]

E = TypeVar("E")

# The group that holds an entity's tombstones; a user's group cannot have this name.
LIFE_GROUP = ""

# An entity id is part of keys on disk and on the wire.
MAX_NAME_BYTES = 255


@attrs.frozen
class FieldGroup:
    """Fields that are written and merged together.

    Args:
        fields: Their names; one at least.
        resolver: Decides between concurrent writes, or merges them; None for the last write. With one field it is
            asked about that field's JSON (``MaxResolver`` about ``17``), with several about the JSON object of them.
        is_background: Whether its edits are such as nobody decided on: heartbeats, high-water marks. They do not bring
            back an entity that is deleted, do not count towards the versions of other groups, and where they meet is no
            conflict to be logged.
    """

    fields: tuple[str, ...]
    resolver: ConflictResolver | None = None
    is_background: bool = False


class FieldResolver(ConflictResolver):
    """Asks a resolver about the one field of a group, instead of the object that it is in.

    Fields beside it, which a newer version of the kind has, are those of the later edit.
    """

    def __init__(self, field: str, resolver: ConflictResolver) -> None:
        self._field = field
        self._resolver = resolver

    @property
    def name(self) -> str:
        """The name of the resolver that is asked."""
        return type(self._resolver).__name__

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        """Return what the resolver says of the field, in the object of the later edit."""
        decision = self._resolver.resolve(self._unwrap(one), self._unwrap(other))
        later = last_write(one, other).winner
        winner = decision.winner
        if winner.value is None:
            return decision
        fields = {} if later.value is None else decode_fields(later.value)
        value = encode_fields(fields | {self._field: json.loads(winner.value)})
        return ConflictDecision(Edit(winner.stamp, value), decision.rule)

    def _unwrap(self, edit: Edit) -> Edit:
        if edit.value is None:
            return edit
        # A value without the field, from another version of the kind, is for the resolver to refuse.
        return Edit(edit.stamp, _encode(decode_fields(edit.value).get(self._field)))


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of fields: equal values have equal bytes, on every node and Python."""
    return _encode(fields)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def decode_fields(value: bytes) -> dict[str, Any]:
    """Return the fields that ``encode_fields`` wrote.

    Raises: ValueError if it is no JSON object.
    """
    fields = json.loads(value)
    if not isinstance(fields, dict):
        raise ValueError(f"the value of a field group is a JSON object, not {type(fields).__name__}")
    return fields


class Authority(Enum):
    """Who has the last word on a kind."""

    # Every node writes, also when it is cut off, and what meets is merged.
    MERGE = "merge"
    # The Raft log: one order of all edits, which needs a majority. Nothing that is merged touches it.
    RAFT = "raft"


class EntityKind(Generic[E]):
    """A kind of entity, kept in step between nodes.

    Args:
        name: As it is called on the wire, on disk and in commands: 1 to 255 bytes.
        entity_class: An attrs class. Fields with a default may be missing in what other nodes write, so a field that is
            added to a kind which is in use needs one.
        key_fields: What is sent at once even when an entity has just changed; see the sync schedule.
        groups: By name, field groups or just their fields. Fields in no group are together in one called "rest"; if
            no groups are given, ``key_fields`` are one group called "key".
        id_field: The field that holds the entity's id, if there is one. It is in no group.
        updated_field: The field that says when the entity last changed, if there is one: an int (milliseconds since
            1970 UTC) or a datetime. It comes from the stamps, is in no group, and what a writer puts there is ignored.
        authority: Whether edits are merged, or put in order by the Raft log.
        converter: A cattrs converter to JSON values, for fields that the default one does not know.

    Raises: ConfigError if a field is not there, or is in two groups, or a name is empty or too long, or an argument is
        of another type than it says.
    """

    def __init__(
        self,
        name: str,
        entity_class: type[E],
        *,
        key_fields: Sequence[str] = (),
        groups: Mapping[str, FieldGroup | Sequence[str]] | None = None,
        id_field: str | None = None,
        updated_field: str | None = None,
        authority: Authority = Authority.MERGE,
        converter: Converter | None = None,
    ) -> None:
        self.name = _checked_name(name, "the name of an entity kind")
        if not attrs.has(entity_class):
            raise ConfigError(f"kind {name!r}: {entity_class!r} is no attrs class")
        self.entity_class = entity_class
        self.authority = _checked_authority(name, authority)
        self.id_field = id_field
        self.updated_field = updated_field
        self.converter = make_converter() if converter is None else converter
        fields = attrs.fields_dict(entity_class)
        self._aliases = {field: attribute.alias or field for field, attribute in fields.items()}
        self._types = {field: get_type_hints(entity_class).get(field, Any) for field in fields}
        self._defaulted = {field for field, attribute in fields.items() if attribute.default is not attrs.NOTHING}
        self.key_fields = _several(key_fields, f"kind {name!r}: key_fields")
        self._check_named([*self.key_fields, *filter(None, (id_field, updated_field))], fields)
        # By name; every field but the derived ones is in one.
        self.groups: Mapping[str, FieldGroup] = self._make_groups(groups)
        self._resolvers = {
            group: declared.resolver
            if len(declared.fields) > 1
            else FieldResolver(declared.fields[0], declared.resolver)
            for group, declared in self.groups.items()
            if declared.resolver is not None
        }
        self._group_of = {field: group for group, declared in self.groups.items() for field in declared.fields}
        # The groups that have a key field in them.
        self.key_groups = frozenset(self._group_of[field] for field in self.key_fields if field in self._group_of)

    def __repr__(self) -> str:
        return f"EntityKind({self.name!r}, {self.entity_class.__name__})"

    # -- Declaration --

    def _check_named(self, named: Iterable[str], fields: Mapping[str, Any]) -> None:
        for field in named:
            if field not in fields:
                raise ConfigError(
                    f"kind {self.name!r} names the field {field!r}; {self.entity_class.__name__} has {sorted(fields)}"
                )

    def _make_groups(self, groups: Mapping[str, FieldGroup | Sequence[str]] | None) -> dict[str, FieldGroup]:
        derived = {self.id_field, self.updated_field}
        if groups is None:
            key = [field for field in self.key_fields if field not in derived]
            groups = {"key": key} if key else {}
        made: dict[str, FieldGroup] = {}
        free = [field for field in self._types if field not in derived]
        for name, given in groups.items():
            what = f"kind {self.name!r}, group {name!r}"
            group = _checked_group(given, what)
            _checked_name(name, f"the name of a field group of kind {self.name!r}")
            self._check_named(group.fields, self._types)
            for field in group.fields:
                if field not in free:
                    raise ConfigError(f"{what}: the field {field!r} is in another group, or derived")
                free.remove(field)
            if not group.fields:
                raise ConfigError(f"{what} has no fields")
            made[name] = group
        if free:
            if "rest" in made:
                raise ConfigError(f"kind {self.name!r}: fields {free} are in no group, and 'rest' has others")
            made["rest"] = FieldGroup(tuple(free))
        return made

    def resolver_of(self, group: str) -> ConflictResolver | None:
        """Return who decides between concurrent writes of a group; None for the last write."""
        return self._resolvers.get(group)

    def is_weak(self, group: str) -> bool:
        """Whether edits of a group say nothing of the entity's being there."""
        declared = self.groups.get(group)
        return declared is not None and declared.is_background

    # -- Entities and values --

    def unstructure(self, entity: E, before: Mapping[str, bytes | None]) -> dict[str, bytes]:
        """Return the value of each group of an entity.

        Args:
            before: The values that are held; fields in them that this class does not have are kept.

        Raises: InvalidCommand if a field has no JSON value.
        """
        if not isinstance(entity, self.entity_class):
            raise InvalidCommand(f"kind {self.name!r} is of {self.entity_class.__name__}, not {type(entity).__name__}")
        fields = {
            field: self.converter.unstructure(getattr(entity, field), unstructure_as=kind)
            for field, kind in self._types.items()
            if field in self._group_of
        }
        return self._values(fields, before)

    def change(self, fields: Mapping[str, Any], before: Mapping[str, bytes | None]) -> dict[str, bytes]:
        """Return the values of the groups that have one of some fields in them, with these changed.

        Raises: InvalidCommand if a field is not the kind's to change, or has no JSON value.
        """
        unknown = sorted(set(fields) - set(self._group_of))
        if unknown:
            raise InvalidCommand(
                f"kind {self.name!r} has no fields {unknown} to change; it has {sorted(self._group_of)}"
            )
        plain = {
            field: self.converter.unstructure(value, unstructure_as=self._types[field])
            for field, value in fields.items()
        }
        return self._values(plain, before)

    def _values(self, fields: Mapping[str, Any], before: Mapping[str, bytes | None]) -> dict[str, bytes]:
        changed: dict[str, dict[str, Any]] = {}
        for field, value in fields.items():
            group = self._group_of[field]
            if group not in changed:
                held = before.get(group)
                changed[group] = {} if held is None else decode_fields(held)
            changed[group][field] = value
        try:
            return {group: encode_fields(values) for group, values in changed.items()}
        except (TypeError, ValueError) as error:
            raise InvalidCommand(f"kind {self.name!r}: a field has no JSON value: {error}") from error

    def structure(self, entity_id: str, values: Mapping[str, bytes | None], updated: HybridTime) -> E | None:
        """Return the entity that values make; None if a field without a default has not come yet.

        Raises: ValueError if a value is not what the class says; the text names the field.
        """
        fields: dict[str, Any] = {}
        for group in self.groups:
            value = values.get(group)
            if value is not None:
                fields |= {name: field for name, field in decode_fields(value).items() if name in self._group_of}
        arguments: dict[str, Any] = {}
        for field, kind in self._types.items():
            if field == self.id_field:
                arguments[field] = entity_id
            elif field == self.updated_field:
                arguments[field] = _as_moment(kind, updated)
            elif field in fields:
                arguments[field] = self._structure_field(field, fields[field], kind)
            elif field not in self._defaulted:
                return None
        make: Any = self.entity_class
        made: E = make(**{self._aliases[field]: value for field, value in arguments.items()})
        return made

    def _structure_field(self, field: str, value: Any, kind: Any) -> Any:
        try:
            return self.converter.structure(value, kind)
        except (BaseValidationError, TypeError, ValueError, KeyError) as error:
            raise ValueError(f"kind {self.name!r}: {field} is {value!r}, which is no {kind}: {error}") from error


def _as_moment(kind: Any, time: HybridTime) -> Any:
    if kind is datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time.physical_ms)
    return time.physical_ms


def _checked_authority(kind: str, authority: object) -> Authority:
    # The string "raft" in its place would be taken for another authority than RAFT: edits would be merged.
    if not isinstance(authority, Authority):
        allowed = " or ".join(str(each) for each in Authority)
        raise ConfigError(f"kind {kind!r}: authority is {authority!r}; it must be {allowed}")
    return authority


def _checked_group(given: FieldGroup | Sequence[str], what: str) -> FieldGroup:
    if not isinstance(given, FieldGroup):
        return FieldGroup(_several(given, what))
    _several(given.fields, what)
    resolver: object = given.resolver
    if resolver is not None and not isinstance(resolver, ConflictResolver):
        raise ConfigError(f"{what}: resolver is {resolver!r}; it must be a ConflictResolver, such as MaxResolver()")
    return given


def _several(names: Sequence[str], what: str) -> tuple[str, ...]:
    # A string is a sequence of strings too: of its letters.
    if isinstance(names, str):
        raise ConfigError(f"{what}: {names!r} is one name; give a tuple of names: ({names!r},)")
    return tuple(names)


def _checked_name(name: str, what: str) -> str:
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise ConfigError(f"{what} is {name!r}; it must have from 1 to {MAX_NAME_BYTES} bytes")
    return name
