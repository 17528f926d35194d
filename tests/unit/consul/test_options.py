"""What a user may set of discovery by Consul, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clustercore.interfaces import ConfigError
from clustercore.runtime.plugins import DISCOVERY, make_plugin
from clustercore_consul import ConsulDiscovery
from clustercore_consul.options import ConsulOptions
from tests.certificates import Authority

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": 5}, "url = 5: expected a URL such as 'http://127.0.0.1:8500'"),
    ({"url": "127.0.0.1:8500"}, "url = '127.0.0.1:8500': expected a URL"),
    ({"url": "ftp://host"}, "url = 'ftp://host': expected"),
    ({"url": "http://"}, "url = 'http://': expected"),
    ({"url": "http://host:0"}, "url = 'http://host:0': expected"),
    ({"url": "http://host:99999"}, "url = 'http://host:99999': expected"),
    ({"url": "http://host:port"}, "url = 'http://host:port': expected"),
    ({"url": "http://host/v1"}, "url = 'http://host/v1': expected"),
    ({"url": "http://host?token=x"}, "url = 'http://host?token=x': expected"),
    ({"url": "http://ho st"}, "url = 'http://ho st': expected"),
    ({"service": ""}, "service = '': expected a printable text that is not empty"),
    ({"service": 3}, "service = 3: expected a printable text"),
    ({"datacenter": "a\nb"}, r"datacenter = 'a\nb': expected a printable text"),
    ({"tags": "one"}, "tags = 'one': expected a list"),
    ({"tags": [""]}, "tags = '': expected a printable text that is not empty"),
    ({"checks": []}, "checks = []: expected a list of some of ttl, grpc, http, each once"),
    ({"checks": ["tcp"]}, "checks = ['tcp']: expected a list of some of ttl, grpc, http"),
    ({"checks": ["ttl", "ttl"]}, "checks = ['ttl', 'ttl']: expected a list of some of"),
    ({"checks": ["http"]}, "http_check = '': expected the URL that the agent is to ask, with 'http' in checks"),
    ({"http_check": "http://x/"}, "http_check = 'http://x/': expected the URL"),
    ({"checks": ["http"], "http_check": "x"}, "http_check = 'x': expected a URL"),
    ({"grpc_check_tls": 1}, "grpc_check_tls = 1: expected true or false"),
    ({"ttl_s": 9.9}, "ttl_s = 9.9: expected seconds from 10 to"),
    ({"ttl_s": True}, "ttl_s = True: expected a number of seconds"),
    ({"ttl_s": float("nan")}, "ttl_s = nan: expected seconds from 10 to"),
    ({"deregister_after_s": 59}, "deregister_after_s = 59: expected seconds from 60 to"),
    ({"check_interval_s": 0.5}, "check_interval_s = 0.5: expected seconds from 1 to"),
    ({"check_timeout_s": 11}, "check_timeout_s = 11: expected seconds from 0.1 to 10"),
    ({"consistency": "eventual"}, "consistency = 'eventual': expected one of stale, default, consistent"),
    ({"max_stale_s": -1}, "max_stale_s = -1: expected seconds from 0 to"),
    ({"wait_s": 601}, "wait_s = 601: expected seconds from 1 to 600"),
    ({"timeout_s": "5"}, "timeout_s = '5': expected a number of seconds"),
    ({"tls_authority": "ca.pem"}, "tls_authority = 'ca.pem': is of no use with a url that is not https"),
    ({"tls_key": 7}, "tls_key = 7: expected the path of a file"),
    ({"url": "https://h", "tls_key": "k.pem"}, "tls_certificate is missing; a certificate and its key go together"),
    ({"url": "https://h", "tls_certificate": "c.pem"}, "tls_key is missing; a certificate and its key go together"),
    ({"url": "https://h", "tls_authority": "/no/such"}, "tls_authority = '/no/such': [Errno 2] No such file"),
    ({"token_file": 7}, "token_file = 7: expected the path of a file"),
    ({"token_file": "/no/such"}, "token_file = '/no/such': No such file or directory"),
    ({"token_file": "x", "token": "y"}, "token_file = 'x': token is given, too; give one of the two"),
]


@pytest.mark.parametrize(("options", "complaint"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_each_mistake_is_named(options: dict[str, Any], complaint: str) -> None:
    """The text has the option, its value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        ConsulDiscovery(**options)

    assert complaint in str(caught.value)


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "kö", "x" * 1025])
def test_secrets_are_refused_without_being_shown(token: str, tmp_path: Path) -> None:
    """A token that cannot be one is refused by name, wherever it comes from; so is a URL with a password."""
    path = tmp_path / "token"
    path.write_text(token)
    for options in ({"token": token}, {"token_file": path}, {"url": f"http://me:{token}@host"}):
        with pytest.raises(ConfigError) as caught:
            ConsulDiscovery(**options)

        assert token not in str(caught.value)
        assert caught.value.__cause__ is None


def test_defaults_keep_the_rules_of_heartbeats() -> None:
    """Three beats in a time to live, each given up after less than a sixth of it; a query outlasts Consul's wait."""
    for ttl, timeout in ((10, 5), (30, 5), (300, 2)):
        options = ConsulDiscovery(ttl_s=ttl, timeout_s=timeout, wait_s=160)._options

        assert options.beat_interval_s == ttl / 3
        assert options.beat_timeout_s == min(timeout, 0.9 * ttl / 6) < ttl / 6
        assert options.wait_timeout_s == 170 + timeout
    assert ConsulDiscovery()._options.deregister_after_s >= 60


def test_options_come_from_a_file(tmp_path: Path) -> None:
    """All of them can be set in a table of TOML; a mistake names the table."""
    authority = Authority(tmp_path)
    files = authority.issue("client")
    (tmp_path / "token").write_text("t0ken\n")
    table = {
        "url": "https://consul.internal:8501/",
        "service": "fleet",
        "token_file": "token",
        "datacenter": "north",
        **files.options,
        "tags": ["blue"],
        "checks": ["http", "ttl"],
        "ttl_s": 15,
        "http_check": "https://h/x?y#z",
        "grpc_check_tls": True,
        "check_interval_s": 5,
        "check_timeout_s": 1.5,
        "deregister_after_s": 7200,
        "consistency": "default",
        "max_stale_s": 3,
        "wait_s": 30,
        "timeout_s": 1,
    }

    discovery = make_plugin(DISCOVERY, "consul", table, "node.toml: [discovery]", folder=tmp_path)

    assert isinstance(discovery, ConsulDiscovery)
    options: ConsulOptions = discovery._options
    assert options.url == "https://consul.internal:8501"
    assert options.checks == ("ttl", "http")
    assert options.tags == ("blue",)
    assert repr(options.secret) == f"<a token from '{tmp_path / 'token'}'>"
    with pytest.raises(ConfigError, match=r"node.toml: \[discovery\]: ttl_s = 5.0: expected seconds from 10"):
        make_plugin(DISCOVERY, "consul", {"ttl_s": 5}, "node.toml: [discovery]")
