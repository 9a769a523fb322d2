"""Python files of a user's: run as they are read, and known by what stands in them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from linnet.errors import ArgumentError

DIGEST = "__linnet_digest__"


def module_of(path: Path) -> ModuleType:
    """Run a file and return it as a module, which is found again by ``digest_of``.

    Raises:
        ArgumentError: no such file, or it does not run.
    """
    if not path.is_file():
        raise ArgumentError(f"no file {path}; give the path of a Python file, .py, that defines a Check")
    content = path.read_bytes()
    name = f"checks_in_{path.stem}_{hashlib.blake2b(bytes(path.resolve()), digest_size=4).hexdigest()}"
    module = sys.modules[name] = ModuleType(name)  # where dataclasses look for it
    module.__file__ = str(path)
    setattr(module, DIGEST, hashlib.blake2b(content, digest_size=8).hexdigest())
    try:
        exec(compile(content, path, "exec"), vars(module))  # never a cache, which may be of another content
    except (Exception, SystemExit) as err:
        raise ArgumentError(f"{path} does not run: {type(err).__name__}: {err}") from err
    return module


def digest_of(value: object) -> list[str]:
    """Return a digest of the user's file that defines the class of a value, of whose code nothing else tells.

    Empty where it is linnet's, or anybody's else.
    """
    found = getattr(sys.modules.get(type(value).__module__), DIGEST, None)
    return [] if found is None else [found]
