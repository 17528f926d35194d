"""Generate the Python code that protos/ describes, or check that what is committed is that code.

Usage: python tools/protos.py [--check]

Each .proto file below becomes a package of betterproto2 messages, inside the plugin that speaks it. A generated package
is written whole and never by hand. Run it from the project's environment: protoc comes from grpcio-tools, the plugin
and the formatter it calls are found beside this interpreter.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"

# From a file under protos/ to the package its code is generated into.
PACKAGES = {
    "clustercore/v1/raft.proto": ROOT / "plugins/clustercore_grpc/_proto",
    "clustercore/v1/kv.proto": ROOT / "plugins/clustercore_kv/_proto",
}

# The plugin formats its output with the ruff settings of the folder it runs in. They are part of what is generated,
# so they are fixed here: a change to the project's own style leaves generated code alone.
RUFF_SETTINGS = 'line-length = 110\ntarget-version = "py311"\n'


def main() -> int:
    """Regenerate every package, or with ``--check`` report the first lines of each difference."""
    parser = argparse.ArgumentParser(description="Generate code from protos/.")
    parser.add_argument("--check", action="store_true", help="only say what would change, and fail if anything")
    check: bool = parser.parse_args().check

    described = {path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto")}
    if described != set(PACKAGES):
        print(f"protos/ holds {sorted(described)}, this script knows {sorted(PACKAGES)}", file=sys.stderr)
        return 1

    drifted = False
    for proto, package in PACKAGES.items():
        with tempfile.TemporaryDirectory() as scratch:
            fresh = generate(proto, Path(scratch))
            if check:
                for line in compare(package, fresh):
                    drifted = True
                    print(line)
            else:
                shutil.rmtree(package, ignore_errors=True)
                shutil.copytree(fresh, package)
    if drifted:
        print("The code above and protos/ have drifted apart; run `make protos`.", file=sys.stderr)
    return int(drifted)


def generate(proto: str, scratch: Path) -> Path:
    """Return a folder in ``scratch`` with the package generated from ``proto``."""
    (scratch / "ruff.toml").write_text(RUFF_SETTINGS, encoding="utf-8")
    fresh = scratch / "package"
    fresh.mkdir()
    scripts = sysconfig.get_path("scripts")
    # The plugin reports each file it writes, on standard error; what it says matters only when it fails.
    protoc = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTOS}",
            f"--plugin={Path(scripts) / 'protoc-gen-python_betterproto2'}",
            f"--python_betterproto2_out={fresh}",
            # Nothing here calls or serves by stubs, and they would make every reader of messages import grpclib.
            "--python_betterproto2_opt=client_generation=none",
            "--python_betterproto2_opt=server_generation=none",
            proto,
        ],
        cwd=scratch,
        env=os.environ | {"PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if protoc.returncode:
        sys.exit(f"{proto}: protoc failed\n{protoc.stdout}")
    return fresh


def compare(committed: Path, fresh: Path) -> list[str]:
    """Return lines that say how ``committed`` differs from ``fresh``; none if they are the same."""
    report: list[str] = []
    old, new = read_tree(committed), read_tree(fresh)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            shown = committed.relative_to(ROOT) / name
            before, after = (tree.get(name, "").splitlines() for tree in (old, new))
            names = (f"{shown} (committed)", f"{shown} (generated)")
            report += difflib.unified_diff(before, after, *names, n=1, lineterm="")
            if name not in old or name not in new:
                report.append(f"{shown}: only {'committed' if name in old else 'generated'}")
    return report


def read_tree(folder: Path) -> dict[str, str]:
    """Return the text of each file under ``folder`` by its path from there, without bytecode."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


if __name__ == "__main__":
    sys.exit(main())
