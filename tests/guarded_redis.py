"""A real redis-server that lets nobody in but the users of deploy/redis/users.acl, as it is deployed."""

from typing import Any

import redis

from tests.conftest import REPOSITORY
from tests.redis_server import RedisServer

USERS_ACL = REPOSITORY / "deploy" / "redis" / "users.acl"


class GuardedRedis(RedisServer):
    """`with GuardedRedis() as server:`; its URL is that of the worker's user."""

    def __init__(self, **settings: str | int) -> None:
        super().__init__(**settings)
        users = USERS_ACL.read_text()
        for name in ("admin", "producer", "worker"):
            users = users.replace(f"{name.upper()}_PASSWORD", password_of(name))
        file = self.directory / "users.acl"
        file.write_text(users)
        self._settings["aclfile"] = str(file)

    @property
    def url(self) -> str:
        return self.url_of("worker")

    def url_of(self, user: str) -> str:
        return f"redis://{user}:{password_of(user)}@127.0.0.1:{self.port}/0"

    def refused(self) -> set[tuple[str, str, str]]:
        """Who was refused what since last asked: user, whether for a command, a key or a channel, and which."""
        with redis.Redis.from_url(self.url_of("admin"), decode_responses=True) as admin:
            log: Any = admin.execute_command("ACL", "LOG", "100")
            admin.execute_command("ACL", "LOG", "RESET")
        entries = [_as_dict(entry) for entry in log]
        return {(entry["username"], entry["reason"], entry["object"]) for entry in entries}


def password_of(user: str) -> str:
    """What that user says to be let in."""
    return f"word-of-{user}"


def _as_dict(entry: Any) -> dict[str, Any]:
    if isinstance(entry, dict):
        return entry
    return dict(zip(entry[::2], entry[1::2], strict=True))
