"""Having a bundle's files out of the page cache, so that a cold load is cold. Standard library only.

Sources: posix_fadvise(2), mincore(2). /proc/sys/vm/drop_caches would need root and slow all programs down.
"""

import ctypes
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def evict(bundle: Path) -> dict[str, Any]:
    """Drop the files of `bundle`, and nothing else, from the page cache; it needs no rights.

    Returns {"dropped_by": "posix_fadvise" or None, "cached": share of the bundle that is in the page cache
    still, or None if the kernel does not tell}. Pages that another program has mapped stay.
    """
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    forgotten = [_forget(path) for path in files]
    dropped = bool(files) and all(forgotten)
    cached = cached_share(files)
    return {
        "dropped_by": "posix_fadvise" if dropped else None,
        "cached": None if cached is None else round(cached, 4),
    }


def cached_share(files: list[Path]) -> float | None:
    """The share of all pages of `files` that is in the page cache; None where the kernel does not tell."""
    resident = pages = 0
    for path in files:
        counts = _resident(path)
        if counts is None:
            return None
        resident, pages = resident + counts[0], pages + counts[1]
    return resident / pages if pages else None


def _forget(path: Path) -> bool:
    if not hasattr(os, "posix_fadvise"):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        with suppress(OSError):
            os.fsync(descriptor)  # pages that are still to be written stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _resident(path: Path) -> tuple[int, int] | None:
    """Pages of the file in the page cache, and all of its pages, by mincore(2)."""
    try:
        size = path.stat().st_size
        if size == 0:
            return 0, 0
        pages = -(-size // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        # A private copy is writable, which ctypes asks for; nothing is written, so no page is copied.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            view = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(view))
            status = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), states)
            del view, address
    except (OSError, ValueError, AttributeError, BufferError):
        return None
    return None if status else (sum(state & 1 for state in states), pages)
