"""Print `deploy/redis/users.acl`: which user may do what in our Redis, and no more.

    python deploy/redis_users.py > deploy/redis/users.acl

What each does is listed in `rerankq.contract.redis_rights`. `make_secrets.py` puts the passwords in;
`tests/deploy/test_redis_users.py` has every part of the service at work under these users and finds nothing refused.
"""

from collections.abc import Iterable, Sequence

from rerankq.contract.closed_pipes import ends_quietly
from rerankq.contract.redis_rights import PRODUCER, PRODUCER_CHANNELS, WORKER, WORKER_CHANNELS, Right


def users_acl() -> str:
    """The whole text of `users.acl`; `NAME_PASSWORD` stands where a password belongs."""
    lines = [
        "user default off",
        "user health on nopass -@all +ping",
        "user admin on >ADMIN_PASSWORD ~* &* +@all",
        _user("producer", PRODUCER, PRODUCER_CHANNELS),
        _user("worker", WORKER, WORKER_CHANNELS),
    ]
    return "\n".join(lines) + "\n"


def _user(name: str, rights: Sequence[Right], channels: Sequence[str]) -> str:
    words = ["user", name, "on", f">{name.upper()}_PASSWORD", "resetchannels"]
    words += [f"&{channel}" for channel in channels]
    words += _once(f"~{key}" for right in rights for key in right.keys)
    words += ["-@all", *_once(f"+{command}" for right in rights for command in right.commands.split())]
    return " ".join(words)


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


if __name__ == "__main__":
    with ends_quietly():
        print(users_acl(), end="")
