"""Runs on the device, in the environment that it checks: are all files whole, does the runtime start.

`python - FOLDER < check.py`; one JSON line on standard output. Standard library only, and no import of ours.
"""

import hashlib
import importlib
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any


def damage(folder: str, files: "dict[str, list[Any]]") -> "str | None":
    """The first file that is not as it was made, or None."""
    for name, (size, digest) in files.items():
        path = os.path.join(folder, name)  # noqa: PTH118 - os.path starts faster on a small board
        try:
            if os.path.getsize(path) != size:  # noqa: PTH202
                return name
            found = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
        except OSError:
            return name
        if found.hexdigest() != digest:
            return name
    return None


def check(folder: str) -> "dict[str, Any]":
    """What `folder` holds and what is wrong with it, as a dict; `fault` is None if nothing is."""
    with open(os.path.join(folder, "environment.json"), encoding="utf-8") as file:  # noqa: PTH118
        about = json.load(file)
    said = {"spec": about["spec"], "fault": None, "versions": {}, "python": platform.python_version()}
    damaged = damage(folder, about["files"])
    if damaged is not None:
        return {**said, "fault": f"{damaged} is not as it was made"}
    for name in about["imports"]:
        try:
            importlib.import_module(name)
        except Exception as error:
            return {**said, "fault": f"import {name}: {type(error).__name__}: {error}"}
    for name, wanted in about["packages"].items():
        said["versions"][name] = metadata.version(name)
        if said["versions"][name] != wanted:
            return {**said, "fault": f"{name} is {said['versions'][name]}, not {wanted}"}
    return said


if __name__ == "__main__":
    sys.stdout.write("\nedgeplm:check=" + json.dumps(check(sys.argv[1])) + "\n")
