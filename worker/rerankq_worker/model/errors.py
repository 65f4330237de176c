"""What can be wrong with a model, and whose fault it is that its files cannot be read.

ModelError
├── ModelNotFound   there is no such directory, or the Hub does not know it
│   └── HubAway     the Hub, or the way to it, is in trouble: a later try may succeed
└── ModelBroken     the files are there and cannot be served: wrong architecture, pickled or cut-off weights, ...
"""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Of a host in trouble; the files may be in order, and another try may find them so."""
LONGEST_REASON_CHARACTERS = 300


class ModelError(Exception):
    """The model cannot be served."""

    exit_code = os.EX_CONFIG
    """Of a process that ends with it."""


class ModelNotFound(ModelError):
    """There is no such model where we may look."""


class HubAway(ModelNotFound):
    """The Hub could not be asked now."""

    exit_code = os.EX_UNAVAILABLE


class ModelBroken(ModelError):
    """The model's files are there and cannot be served."""


class NotPacked(ModelBroken):
    """The packed engine does not compute such a model; nothing is said about its files."""


@contextmanager
def reading(directory: Path) -> Generator[None]:
    """Whatever is raised while a model's files are read is said of the model: they will be no better at the next start.

    Raises:
        ModelBroken: with the reason; not for want of memory, nor for a disk in trouble, which may pass.
    """
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever they like, at whatever is in the files
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_REASON_CHARACTERS]
        raise ModelBroken(f"{directory} cannot be read as a model ({reason})") from error
