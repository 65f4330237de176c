"""All checks in their order, one after another, within a bounded time; what depends on a failed one is not asked.

Knows which check stands on which; nothing of what they look at.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from rerankq.contract.errors import RerankError
from rerankq.contract.findings import Finding, broken, skipped
from rerankq.doctor import of_jobs, of_redis, of_settings, of_versions, of_workers
from rerankq.doctor.of_host import HostReport, LauncherHere
from rerankq.settings import ClientSettings

LONGEST_SECONDS = 28.0
HOST_SECONDS = 22.0
"""For what is asked of the worker's own program, which imports torch and transformers."""

_NEEDED_TO_ASK = ("redis", "redis.rights", "results", "results.rights")
_NEEDED_TO_SEND = ("redis.log", "redis.memory", "results.log", "results.memory")


@dataclass(slots=True)
class Examination:
    """What the checks of one run share."""

    give_up_at: float = field(default_factory=lambda: time.monotonic() + LONGEST_SECONDS)
    found: list[Finding] = field(default_factory=list[Finding])

    def run(self, of_faces: Iterable[of_settings.Load]) -> Iterator[Finding]:
        """Each finding as soon as it is there.

        Args:
            of_faces: read the settings of other faces of the service that are installed here.
        """
        with HostReport() as host:  # it takes seconds, so it is begun first and heard last
            yield from self._each("versions", of_versions.findings)
            yield from self._each("settings", lambda: of_settings.findings(of_faces))
            if self._is_broken("settings"):
                yield from self._skip("the settings are wrong", "redis", "workers", "canary", "host")
                return
            settings = ClientSettings.load()
            yield from self._each("redis", lambda: of_redis.findings(settings, host.is_asked))
            yield from self._of_service(of_workers.Around(settings), host)

    def _of_service(self, around: of_workers.Around, host: HostReport) -> Iterator[Finding]:
        def launcher_here() -> LauncherHere | None:
            return host.launcher(self.left(HOST_SECONDS))

        if self._is_broken(*_NEEDED_TO_ASK):
            yield from self._skip("Redis cannot be asked", "workers")
        else:
            yield from self._each("workers", lambda: of_workers.findings(around, launcher_here))
        may_send = not self._is_broken(*_NEEDED_TO_ASK, *_NEEDED_TO_SEND)
        if may_send:
            yield from self._each("canary", lambda: of_jobs.canaries(around, self.left))
        else:
            yield from self._skip("Redis takes no job", "canary")
        yield from self._each("host", lambda: host.findings(self.left(HOST_SECONDS), around.heard))
        if may_send:
            yield from self._each("model.golden", lambda: of_jobs.golden(around, host.golden, self.left))

    def left(self, most_seconds: float) -> float:
        """Seconds that a check may take, at most so many; always a few."""
        return max(0.5, min(most_seconds, self.give_up_at - time.monotonic()))

    def _is_broken(self, *checks: str) -> bool:
        return any(finding.check in checks and finding.verdict == "broken" for finding in self.found)

    def _each(self, check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        """What one group of checks finds; it may fail as it likes, the others go on."""
        try:
            for finding in look():
                self.found.append(finding)
                yield finding
        except (RerankError, RedisError) as error:
            told = error.message if isinstance(error, RerankError) else "Redis does not answer any more"
            yield self._kept(broken(check, f"{told} ({type(error).__name__})", "rerankq doctor"))
        except Exception as error:  # noqa: BLE001 - the one boundary: a doctor tells, and goes on
            told = f"this check failed itself ({type(error).__name__}). This is a bug"
            yield self._kept(broken(check, told, "report it, with the output of `rerankq doctor --json`"))

    def _skip(self, why: str, *checks: str) -> Iterator[Finding]:
        for check in checks:
            yield self._kept(skipped(check, why))

    def _kept(self, finding: Finding) -> Finding:
        self.found.append(finding)
        return finding
