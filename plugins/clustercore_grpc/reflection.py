"""Server reflection: how ``grpcurl`` and its like learn what a server speaks (grpc/grpc doc/server-reflection.md).

Both versions of the service, ``v1`` and ``v1alpha``, have the same messages. A file is told as it was compiled; those
here import none, so a file is all that a client needs for its services. Services of which no descriptor is known, those
for health and for reflection among them, are not listed: stock tools know them.
"""

from __future__ import annotations

from collections.abc import Iterable

from clustercore.interfaces import MalformedMessage, encode_field, encode_varint, split_fields

__all__ = ["REFLECTION_SERVICES", "Reflection"]

REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

# Fields of ServerReflectionRequest.
_FILE_BY_FILENAME, _FILE_CONTAINING_SYMBOL, _LIST_SERVICES = 3, 4, 7
# Fields of ServerReflectionResponse.
_ORIGINAL_REQUEST, _FILES, _SERVICES, _ERROR = 2, 4, 6, 7
# Fields of FileDescriptorProto, and those of what it holds.
_NAME, _PACKAGE, _MESSAGE, _ENUM, _SERVICE = 1, 2, 4, 5, 6
_METHOD = 2

_NOT_FOUND, _UNIMPLEMENTED = 5, 12


class Reflection:
    """Answers from encoded google.protobuf.FileDescriptorProto messages."""

    def __init__(self, files: Iterable[bytes]) -> None:
        self._by_name: dict[str, bytes] = {}
        self._by_symbol: dict[str, bytes] = {}
        self._services: list[str] = []
        for file in dict.fromkeys(files):
            self._learn(file)

    def _learn(self, file: bytes) -> None:
        names = _texts(file)
        self._by_name[names[_NAME]] = file
        prefix = f"{names[_PACKAGE]}." if names.get(_PACKAGE) else ""
        for number, _, value in split_fields(file):
            if number not in (_MESSAGE, _ENUM, _SERVICE) or not isinstance(value, bytes):
                continue
            symbol = prefix + _texts(value)[_NAME]
            self._by_symbol[symbol] = file
            if number == _SERVICE:
                self._services.append(symbol)
                for inner, _, method in split_fields(value):
                    if inner == _METHOD and isinstance(method, bytes):
                        self._by_symbol[f"{symbol}.{_texts(method)[_NAME]}"] = file

    def answer(self, request: bytes) -> bytes:
        """Answer a ServerReflectionRequest with a ServerReflectionResponse.

        Raises: MalformedMessage if it is none.
        """
        return encode_field(_ORIGINAL_REQUEST, request) + self._answer(request)

    def _answer(self, request: bytes) -> bytes:
        for number, _, value in split_fields(request):
            if not isinstance(value, bytes):
                continue
            if number == _LIST_SERVICES:
                listed = [encode_field(1, encode_field(1, name.encode())) for name in self._services]
                return encode_field(_SERVICES, b"".join(listed))
            if number in (_FILE_BY_FILENAME, _FILE_CONTAINING_SYMBOL):
                known = self._by_name if number == _FILE_BY_FILENAME else self._by_symbol
                name = value.decode(errors="replace")
                if name not in known:
                    return _error(_NOT_FOUND, f"{name!r} is not known here")
                return encode_field(_FILES, encode_field(1, known[name]))
        return _error(_UNIMPLEMENTED, "this asks for extensions, of which proto3 has none, or for nothing known")


def _error(code: int, message: str) -> bytes:
    return encode_field(_ERROR, encode_varint(1 << 3) + encode_varint(code) + encode_field(2, message.encode()))


def _texts(message: bytes) -> dict[int, str]:
    """Return the fields 1 and 2 of a descriptor, where they are text."""
    found: dict[int, str] = {}
    for number, _, value in split_fields(message):
        if number in (1, 2) and isinstance(value, bytes):
            try:
                found.setdefault(number, value.decode())
            except UnicodeDecodeError:
                continue
    if _NAME not in found:
        raise MalformedMessage("a descriptor without a name")
    return found
