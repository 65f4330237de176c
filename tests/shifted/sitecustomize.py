"""For a process of its own: a wall clock that is off by `SHIFTED_BY_SECONDS`, as on a machine whose time is wrong.

Python imports this at its start wherever this directory is on the PYTHONPATH.
"""

import datetime
import os
import time

_OFF = float(os.environ.get("SHIFTED_BY_SECONDS", "0"))
_time = time.time


class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(_time() + _OFF, tz)


if _OFF:
    time.time = lambda: _time() + _OFF
    datetime.datetime = _Shifted
