"""The ACL token: where it comes from, and that it goes nowhere but into one header."""

from __future__ import annotations

from pathlib import Path

from clustercore.interfaces import ConfigError

__all__ = ["HEADER", "Secret"]

# The only place of a request in which a token travels; never a URL, which others log.
HEADER = "X-Consul-Token"

# Consul's are UUIDs.
_MAX_TOKEN_CHARS = 1024


class Secret:
    """The token that requests carry: a given one, or what a file holds, which may be replaced while the node runs.

    No text made of it, for a log or an error, shows the token.
    """

    def __init__(self, token: str, path: Path | None = None) -> None:
        self._token = token
        self._path = path

    @classmethod
    def checked(cls, token: object, token_file: object) -> Secret:
        """Make it of the options ``token`` and ``token_file``, of which at most one is given.

        Raises: ConfigError if both are, the file cannot be read, or what it holds cannot be a token.
        """
        if not isinstance(token_file, (str, Path)):
            raise ConfigError(f"token_file = {token_file!r}: expected the path of a file")
        if not str(token_file) or token_file == Path():
            if not _is_token(token):
                # Not the value: it is a secret.
                raise ConfigError(f"token: expected at most {_MAX_TOKEN_CHARS} printable ASCII characters, no spaces")
            assert isinstance(token, str)
            return cls(token)
        if token:
            raise ConfigError(f"token_file = {str(token_file)!r}: token is given, too; give one of the two")
        try:
            return cls(_read(Path(token_file)), Path(token_file))
        except (OSError, ValueError) as error:
            raise ConfigError(f"token_file = {str(token_file)!r}: {_why(error)}") from None

    @property
    def headers(self) -> dict[str, str]:
        """Return what a request has to carry: nothing where there is no token."""
        return {HEADER: self._token} if self._token else {}

    @property
    def is_empty(self) -> bool:
        """Whether requests carry no token: Consul then takes them for those of anybody."""
        return not self._token

    def reload(self) -> bool:
        """Read the file again, if there is one, and return whether the token is another one now.

        Raises: OSError or ValueError if it cannot be read; the token stays as it was, and no text shows it.
        """
        if self._path is None:
            return False
        try:
            token = _read(self._path)
        except (OSError, ValueError) as error:
            raise ValueError(f"token_file {str(self._path)!r}: {_why(error)}") from None
        is_new, self._token = token != self._token, token
        return is_new

    def __repr__(self) -> str:
        source = "" if self._path is None else f" from {str(self._path)!r}"
        return f"<{'no token' if self.is_empty else 'a token'}{source}>"


def _read(path: Path) -> str:
    """Raises: OSError; ValueError if what the file holds is no token."""
    token = path.read_bytes().strip().decode("ascii", errors="replace")
    if not token or not _is_token(token):
        raise ValueError(f"expected one token of at most {_MAX_TOKEN_CHARS} printable ASCII characters, no spaces")
    return token


def _is_token(token: object) -> bool:
    return (
        isinstance(token, str)
        and token.isascii()
        and token.isprintable()
        and " " not in token
        and len(token) <= _MAX_TOKEN_CHARS
    )


def _why(error: OSError | ValueError) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
