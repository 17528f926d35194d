"""The program that runs one mutant: it patches one module as that is imported, and hunts for the property it breaks.

It is started by its path, in a process of its own, and reads its order from standard input. Nothing of clustercore may
be imported before the module is patched, so this file imports the standard library alone. No file is changed.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


class PatchedLoader(importlib.machinery.SourceFileLoader):
    """Loads one module with another text in one place. Its byte code is kept nowhere."""

    def __init__(self, name: str, path: str, find: str, replace: str) -> None:
        super().__init__(name, path)
        self._find = find
        self._replace = replace

    def get_code(self, fullname: str) -> CodeType:
        """Compile the patched source."""
        path = self.get_filename(fullname)
        source = Path(path).read_text(encoding="utf-8")
        count = source.count(self._find)
        if count != 1:
            raise ImportError(f"the text to patch is found {count} times in {path}")
        return compile(source.replace(self._find, self._replace), path, "exec", dont_inherit=True)


class PatchingFinder(importlib.abc.MetaPathFinder):
    """Finds one module where the others would find it, and has it loaded patched."""

    def __init__(self, module: str, find: str, replace: str) -> None:
        self._module = module
        self._find = find
        self._replace = replace
        # Whether the module was asked for.
        self.is_used = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the one module's spec with another loader; None for any other."""
        if fullname != self._module:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.origin is not None:
                self.is_used = True
                spec.loader = PatchedLoader(fullname, spec.origin, self._find, self._replace)
                spec.cached = None
                return spec
        return None


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Patch and hunt; return what was found."""
    # This file's own folder is on the path because it was started from there; its neighbours are no top-level modules.
    sys.path[0] = order["root"]
    finder = PatchingFinder(order["module"], order["find"], order["replace"])
    sys.meta_path.insert(0, finder)
    module, _, name = order["hunt"].partition(":")
    started_at = time.perf_counter()
    answer: dict[str, Any] = {"is_killed": False, "text": "", "events": 0, "others": []}
    for finding in getattr(importlib.import_module(module), name)(order):
        answer["events"] += finding.events
        if finding.property == order["property"]:
            answer["is_killed"], answer["text"] = True, finding.text
            break
        if finding.property and finding.property not in {other["property"] for other in answer["others"]}:
            answer["others"].append({"property": finding.property, "text": finding.text})
    answer["seconds"] = time.perf_counter() - started_at
    answer["is_patched"] = finder.is_used
    return answer


def main() -> None:
    """Take the order, keep what the hunt prints off standard output, and answer there with one line of JSON."""
    order = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        answer.write(json.dumps(run(order)))


if __name__ == "__main__":
    main()
