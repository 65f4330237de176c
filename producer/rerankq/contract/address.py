"""What a Redis URL means: read once, then told to redis-py and to Celery in the words of each.

    redis://user:password@host:6379/0            rediss://…?ssl_ca_certs=/ca.pem        unix:///run/redis.sock?db=0
    sentinel://:password@host-a:26379/0;sentinel://:password@host-b:26379/0?master_name=rerankq

redis-py, kombu, Celery and Flower each take other spellings and options of such a URL for granted, and pass on or
trip over the rest. What is accepted here works in all of them; anything else is refused when the settings are read.
Knows URLs only; nothing that it raises quotes one, for it may hold a password.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

SCHEMES = ("redis", "rediss", "unix", "redis+socket", "sentinel")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
DEFAULT_MASTER = "mymaster"  # Sentinel's own

_TIME_LIMITS = ("socket_timeout", "socket_connect_timeout", "timeout", "retry_on_timeout")
_CERTIFICATE_CHECKS = ("required", "optional", "none")
_ENCODE = "a special character of a password is written %XX"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis, and how to get there."""

    scheme: str
    """`redis`, `rediss` (TLS), `unix` or `sentinel`."""
    hosts: tuple[tuple[str, int], ...] = ()
    """One, or all the sentinels; none where there is a socket."""
    socket_path: str = ""
    database: int = 0
    login: Mapping[str, str] = field(default_factory=dict[str, str])
    """`username` and `password`, where given: those of the Redis, not of its sentinels."""
    master_name: str = DEFAULT_MASTER
    tls: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """redis-py's `ssl_…` options."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Others of redis-py's."""

    @property
    def is_sentinel(self) -> bool:
        """Whether it names sentinels and not the Redis itself."""
        return self.scheme == "sentinel"

    @property
    def shown(self) -> str:
        """Where it leads, for people: neither user nor password."""
        places = [f"{_bracketed(host)}:{port}" for host, port in self.hosts]
        if self.is_sentinel:
            return f"sentinels {', '.join(places)}, master {self.master_name}, database {self.database}"
        return f"{places[0] if places else self.socket_path}, database {self.database}"

    def for_redis_py(self) -> dict[str, Any]:
        """The arguments of `Redis(…)`, time limits aside; with sentinels, those of `master_for(…)`."""
        arguments: dict[str, Any] = {"db": self.database, **self.login, **self.options}
        if self.scheme == "unix":
            return arguments | {"unix_socket_path": self.socket_path}
        if self.is_sentinel:
            return arguments
        host, port = self.hosts[0]
        return arguments | {"host": host, "port": port} | ({"ssl": True, **self.tls} if self.tls else {})

    def for_celery(self) -> str:
        """The URL in the one spelling that kombu, Celery and Flower read alike; options are given to them apart."""
        if self.scheme == "unix":
            path = quote(self.socket_path)
            return f"redis+socket://{self._user}{path}?{urlencode({'virtual_host': self.database})}"
        return ";".join(
            f"{self.scheme}://{self._user}{_bracketed(host)}:{port}/{self.database}"
            for host, port in self.hosts
        )

    @property
    def _user(self) -> str:
        if not self.login:
            return ""
        user, password = (quote(self.login.get(name, ""), safe="") for name in ("username", "password"))
        return f"{user}:{password}@" if password else f"{user}@"


def read_address(url: str) -> RedisAddress:
    """Take a URL apart.

    Raises:
        ValueError: something in it would not be understood, or not by everybody, in one line that does not quote it.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES or "://" not in url:
        raise ValueError(f"expected a URL that starts with one of {', '.join(f'{s}://' for s in SCHEMES)}")
    parts = [_split(part) for part in url.split(";")] if scheme == "sentinel" else [_split(url)]
    if any(part.scheme != scheme for part in parts):
        raise ValueError("expected several sentinels as sentinel://host:port/0;sentinel://host:port/0")
    query = _query_of(parts, scheme)
    first = parts[0]
    is_socket = scheme in ("unix", "redis+socket")
    if is_socket and (first.hostname or not first.path.strip("/")):
        raise ValueError(f"expected {scheme}:///path/of/the/socket, an absolute path after three slashes")
    if scheme == "sentinel" and not all(part.hostname for part in parts):
        raise ValueError("expected sentinel://host:port/0, got one without a host")
    credentials = {"username": first.username, "password": first.password}
    return RedisAddress(
        scheme="unix" if is_socket else scheme,
        hosts=() if is_socket else tuple(_host_and_port(part) for part in parts),
        socket_path=unquote(first.path) if is_socket else "",
        database=_database("" if is_socket else first.path, query),
        login={name: unquote(text) for name, text in credentials.items() if text},
        master_name=query.get("master_name", DEFAULT_MASTER),
        tls=_tls(query) if scheme == "rediss" else {},
        options={name: read(query[name]) for name, read in _OPTIONS.items() if name in query},
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
    except ValueError:  # its own words would quote what may be a password
        raise ValueError(f"expected a URL, got one whose host cannot be read; {_ENCODE}") from None
    if not url.strip().isprintable():  # least of all half a character, from a variable that is not UTF-8
        raise ValueError(f"expected a URL of printable characters; {_ENCODE}")
    if "#" in url:
        raise ValueError(f"expected a URL without #; {_ENCODE}")
    return parts


def _host_and_port(part: SplitResult) -> tuple[str, int]:
    try:
        return unquote(part.hostname or DEFAULT_HOST), part.port or DEFAULT_PORTS[part.scheme]
    except ValueError:
        raise ValueError(f"expected the port after the host to be a number up to 65535; {_ENCODE}") from None


def _query_of(parts: list[SplitResult], scheme: str) -> dict[str, str]:
    """The options of all parts together, each of them known for this scheme."""
    query = {name: value for part in parts for name, value in parse_qsl(part.query, keep_blank_values=True)}
    known = {"db", "virtual_host", *_OPTIONS, *_ONLY_OF.get(scheme, ())}
    unknown = next((name for name in query if name not in known), None)
    if unknown in _TIME_LIMITS:
        raise ValueError(
            f"expected no {unknown} in the URL: RERANKQ_REDIS_TIMEOUT_SECONDS says how long a client's call may take, "
            "a worker's may take 5 s"
        )
    if unknown is not None and re.fullmatch(r"ssl_\w{,30}", unknown) and scheme != "rediss":
        raise ValueError("expected options of TLS with rediss:// only")
    if unknown is not None:
        raise ValueError(f"expected no options after ? but {', '.join(sorted(known))}; {_ENCODE}")
    return query


def _database(path: str, query: Mapping[str, str]) -> int:
    """The number that path and query name, as long as they name one."""
    named = {text for text in (unquote(path).strip("/"), query.get("db"), query.get("virtual_host")) if text}
    if len(named) > 1 or not all(text.isdecimal() and text.isascii() for text in named):
        raise ValueError("expected one number of a database, after the host or as ?db=")
    return int(named.pop()) if named else 0


def _tls(query: Mapping[str, str]) -> dict[str, Any]:
    """Certificates are checked unless the URL says otherwise; files must be there."""
    named: dict[str, Any] = {name: query[name] for name in _TLS_FILES if name in query}
    check = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if check not in _CERTIFICATE_CHECKS:
        raise ValueError(f"expected ssl_cert_reqs to be one of {', '.join(_CERTIFICATE_CHECKS)}")
    try:
        context = ssl.create_default_context(
            cafile=named.get("ssl_ca_certs"), capath=named.get("ssl_ca_path")
        )
        if "ssl_certfile" in named:
            context.load_cert_chain(named["ssl_certfile"], named.get("ssl_keyfile"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"expected {', '.join(named)} to name readable PEM files: {reason}") from None
    is_host_checked = check != "none" and _is_host_checked(query.get("ssl_check_hostname", "true"))
    return {"ssl_cert_reqs": check, "ssl_check_hostname": is_host_checked, **named}


def _is_host_checked(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("expected ssl_check_hostname to be true or false")
    return text.lower() in ("true", "1", "yes")


def _seconds(text: str) -> int:
    if not (text.isdecimal() and text.isascii()):
        raise ValueError("expected health_check_interval to be a whole number of seconds")
    return int(text)


def _spoken(text: str) -> int:
    if text != "3":
        raise ValueError("expected protocol to be 3, which all parts speak")
    return 3


def _name(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("expected client_name to be printable ASCII without spaces")
    return text


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "health_check_interval": _seconds,
    "client_name": _name,
    "protocol": _spoken,
}
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_ONLY_OF = {"rediss": ("ssl_cert_reqs", "ssl_check_hostname", *_TLS_FILES), "sentinel": ("master_name",)}
