"""Clients that know nothing of us but the protos: programs of grpcio's, with what protoc makes for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import trio

__all__ = ["make_client", "run_client"]

_PROTOS = Path(__file__).parents[2] / "protos/clustercore/v1"


async def make_client(folder: Path, program: str, *protos: str) -> None:
    """Write a program into a folder, beside the modules of these protos."""
    for name in protos:
        # Under its bare name: the generated modules would otherwise look for themselves in the package clustercore.
        shutil.copy(_PROTOS / name, folder)
    tools = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=."]
    await trio.run_process([*tools, *protos], cwd=folder)
    (folder / "client.py").write_text(program)


async def run_client(folder: Path, address: str) -> list[str]:
    """Run the program of a folder with the address of a node; return the lines that it prints."""
    command = [sys.executable, "client.py", address]
    done = await trio.run_process(command, cwd=folder, capture_stdout=True, stderr=subprocess.STDOUT)
    return done.stdout.decode().splitlines()
