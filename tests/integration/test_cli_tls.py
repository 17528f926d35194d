"""A cluster with TLS and a token, run and asked with the command alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Authority

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "clustercore.cli"]
# Far beyond what it takes: it only ends a run that hangs.
LIMIT_S = 60


@pytest.mark.parametrize("plugin", ["grpc", "tcp", "http"])
def test_commands_reach_a_cluster_with_tls_and_a_token(tmp_path: Path, plugin: str) -> None:
    """With the node's file they get in, and write and read; without it they do not."""
    files = Authority(tmp_path).issue("n1")
    config = tmp_path / "n1.toml"
    config.write_text(
        'node_id = "n1"\nvoters = ["n1"]\n'
        f'[transport]\nplugin = "{plugin}"\nlisten = "127.0.0.1:0"\ntoken = "secret"\n'
        # Relative paths are relative to the file.
        + "".join(f'{option} = "{Path(path).name}"\n' for option, path in files.options.items())
        + '[storage]\nplugin = "sqlite"\npath = "n1.db"\n[discovery]\nplugin = "static"\nmembers = {}\n'
        '[machine]\nplugin = "kv"\n'
    )
    with subprocess.Popen(
        [*COMMAND, "serve", "--config", str(config), "--json", "--exit-with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        try:
            assert node.stdout is not None
            address = json.loads(node.stdout.readline())["address"]

            def run(*arguments: str, transport: str = str(config)) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [*COMMAND, *arguments, "--transport", transport, "--node", address],
                    capture_output=True,
                    text=True,
                    timeout=LIMIT_S,
                    check=False,
                )

            assert run("kv", "put", "greeting", "hello").returncode == 0
            assert run("kv", "get", "greeting").stdout == "hello\n"
            assert "leader" in run("status").stdout
            assert run("status", transport=plugin).returncode != 0
        finally:
            node.communicate()
