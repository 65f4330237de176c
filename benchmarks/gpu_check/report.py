"""What checks found: each has its own failure, and its share of the time. Knows no engine and no device."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Found = dict[str, Any]
ERROR_CHARS = 300


@dataclass(slots=True)
class Report:
    """Progress on stderr; `document` is what remains."""

    seconds: float
    """For all checks together: one that would begin later is not run."""
    checks: dict[str, Found] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def run(self, name: str, check: Callable[[Found], None]) -> None:
        """Runs a check, which writes into what it is given; however it ends, the next one can run."""
        if self._passed() > self.seconds:
            self.failed.append(f"{name}: no time left")
            return
        found, began = self.checks.setdefault(name, {}), time.perf_counter()
        try:
            check(found)
        except Exception as error:  # noqa: BLE001 - the boundary: a card's minutes are not spent for one check
            self.failed.append(f"{name}: {type(error).__name__}: {str(error)[:ERROR_CHARS]}")
            traceback.print_exc()
        found["took_s"] = round(time.perf_counter() - began, 1)
        self._tell(f"{name}: {json.dumps(found, default=str)}")

    def document(self) -> dict[str, Any]:
        return {"checks": self.checks, "failed": self.failed, "seconds": round(self._passed(), 1)}

    def _passed(self) -> float:
        return time.perf_counter() - self._began

    def _tell(self, line: str) -> None:
        print(f"[{self._passed():6.1f}] {line}", file=sys.stderr, flush=True)
