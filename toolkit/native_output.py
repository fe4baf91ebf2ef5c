"""What libraries write past Python, on the file descriptors themselves."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def natively_hushed() -> Iterator[None]:
    """Keep off standard error what C++ libraries write there, past Python, of processors and allocators.

    For short stretches, since bars stand still meanwhile. What goes wrong they raise as well.
    """
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
