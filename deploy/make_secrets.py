"""Write the secrets that compose and Kubernetes hand out as files, with fresh passwords.

    python deploy/make_secrets.py [DIRECTORY]                 # what is missing; files that are there are kept
    python deploy/make_secrets.py --rotate [DIRECTORY]        # fresh passwords and keys beside the old ones
    python deploy/make_secrets.py --forget-old [DIRECTORY]    # the fresh ones alone

Knows file formats only; needs nothing but Python. What each user of Redis may do comes from redis/users.acl, at every
run: the rights of a new release reach `redis_users` by either option.
"""

import argparse
import re
import secrets
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

DIRECTORY = Path(__file__).parent / "secrets"
USERS = Path(__file__).parent / "redis" / "users.acl"
ROTATED = ("producer", "worker")  # an administrator whose password changed could not say so to Redis
ALL_KEYS, LATEST_KEY = "rerankq_http_keys", "rerankq_http_key"
"""What the HTTP face takes, one a line; and what callers and Prometheus show."""
OF_THEIR_OWN = (ALL_KEYS, LATEST_KEY, "flower_basic_auth", "grafana_admin_password")
"""What an older release may not have written, and can be added; those of Redis belong together."""


def secret_files(keys: Sequence[str] = ()) -> dict[str, str]:
    """File name to content, made of fresh passwords. No file ends in a newline that a reader could take along.

    Args:
        keys: of the HTTP face, the latest first; a fresh one when there are none.
    """
    passwords = {name: secrets.token_urlsafe(24) for name in ("admin", *ROTATED)}
    flower, grafana = (secrets.token_urlsafe(24) for _ in range(2))
    return {
        "redis_users": users_acl({name: [password] for name, password in passwords.items()}),
        "redis_admin_password": passwords["admin"],
        **_login_files(passwords),
        **_key_files(keys or [secrets.token_urlsafe(24)]),
        "flower_basic_auth": f"admin:{flower}",
        "grafana_admin_password": grafana,
    }


def rotated(users: str, keys: Sequence[str]) -> dict[str, str]:
    """The files to write so that producer, worker and HTTP face have fresh ones and the old ones still hold."""
    old = passwords_in(users)
    fresh = {name: secrets.token_urlsafe(24) for name in ROTATED}
    both = {name: [fresh[name], *old[name]] for name in ROTATED}
    key_files = _key_files([secrets.token_urlsafe(24), *keys])
    return {"redis_users": users_acl(old | both), **_login_files(fresh), **key_files}


def without_old_passwords(users: str, keys: Sequence[str]) -> dict[str, str]:
    """The files to write so that each user has the latest password alone, and the HTTP face the latest key."""
    latest = {name: found[:1] for name, found in passwords_in(users).items()}
    return {"redis_users": users_acl(latest), **(_key_files(keys[:1]) if keys else {})}


def users_acl(passwords: Mapping[str, Sequence[str]]) -> str:
    """The rights of this release with these passwords."""
    users = USERS.read_text()
    for name, words in passwords.items():
        users = users.replace(f">{name.upper()}_PASSWORD", " ".join(f">{word}" for word in words))
    return users


def passwords_in(users: str) -> dict[str, list[str]]:
    """The passwords of each user of an ACL file, the latest first.

    Raises:
        SystemExit: it is of another kind than this script writes.
    """
    found = {
        name: re.findall(r">(\S+)", rest) for name, rest in re.findall(r"(?m)^user (\S+) on (>.*)$", users)
    }
    if found.keys() != {"admin", *ROTATED}:
        raise SystemExit(
            f"expected redis_users to name admin, producer and worker, found {', '.join(found) or 'none'}; "
            "remove the secrets for fresh ones"
        )
    return found


def _login_files(passwords: Mapping[str, str]) -> dict[str, str]:
    return {
        "redis_password": passwords["producer"],
        "rerankq_broker_url": f"redis://worker:{passwords['worker']}@redis:6379/0",
        "rerankq_producer_url": f"redis://producer:{passwords['producer']}@redis:6379/0",
    }


def _key_files(keys: Sequence[str]) -> dict[str, str]:
    return {ALL_KEYS: "\n".join(keys), LATEST_KEY: keys[0]}


def _keys_in(directory: Path) -> list[str]:
    """The keys of the HTTP face that are there, the latest first."""
    files = [directory / name for name in (ALL_KEYS, LATEST_KEY) if (directory / name).exists()]
    return files[0].read_text().split() if files else []


def write(files: Mapping[str, str], directory: Path) -> list[Path]:
    """Write the files in place; a container holds on to the very file that it was given."""
    directory.mkdir(parents=True, exist_ok=True)
    # Containers run as other users than you: the files are readable, their directory is yours alone.
    directory.chmod(0o700)
    paths = {directory / name: content for name, content in files.items()}
    for path, content in paths.items():
        path.write_text(content)
        path.chmod(0o644)
    return list(paths)


def main() -> None:
    """Write the secrets and say where they are."""
    parser = argparse.ArgumentParser(description="Write the secrets that compose and Kubernetes hand out.")
    parser.add_argument("directory", nargs="?", type=Path, default=DIRECTORY)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rotate", action="store_true", help="fresh passwords beside the old ones")
    how.add_argument("--forget-old", action="store_true", help="take the old passwords away")
    options = parser.parse_args()
    for path in write(_chosen(options), options.directory):
        print(f"wrote {path}")


def _chosen(options: argparse.Namespace) -> dict[str, str]:
    """File name to content."""
    directory, keys = options.directory, _keys_in(options.directory)
    users = directory / "redis_users"
    if options.rotate or options.forget_old:
        if not users.exists():
            raise SystemExit(f"{directory} holds no secrets yet; run without an option first")
        change = rotated if options.rotate else without_old_passwords
        return change(users.read_text(), keys)
    fresh = secret_files(keys)
    missing = {name: content for name, content in fresh.items() if not (directory / name).exists()}
    if len(missing) == len(fresh):
        return fresh
    print(f"{directory} already holds secrets; --rotate changes them, removing all makes them anew")
    return {name: content for name, content in missing.items() if name in OF_THEIR_OWN}


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the output may leave
    main()
