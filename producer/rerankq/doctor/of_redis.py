"""The Redis of the settings: whether it answers and how soon, who we are to it, what it may lose, what time it has."""

import os
import re
import shlex
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from rerankq.admission import FULL_FRACTIONS
from rerankq.contract import keys
from rerankq.contract.address import RedisAddress, read_address
from rerankq.contract.findings import Finding, broken, ok, skipped, warn
from rerankq.contract.redis_clients import redis_client
from rerankq.contract.redis_rights import (
    CHORD_KEYS,
    PRODUCER,
    PRODUCER_CHANNELS,
    WORKER,
    WORKER_CHANNELS,
    Right,
)
from rerankq.contract.refusals import Refusal, refusal_in
from rerankq.contract.risks import Risk, RiskName, read_risks
from rerankq.contract.setting_cures import place_of
from rerankq.doctor.rights import Question, questions, refused
from rerankq.running import running_broker
from rerankq.settings import ClientSettings

ANSWERS_WITHIN_SECONDS = 2.0
SLOW_SHARE = 0.2
"""Of `RERANKQ_REDIS_TIMEOUT_SECONDS`: a Redis that takes so long at rest will take longer under load."""
CLOCKS_APART_SECONDS = 2.0
FREE_DISK_SHARE = 2.0
"""Of the append-only log: rewriting it writes another beside it."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OF_RESULTS = (keys.result("*"), *CHORD_KEYS)
_PLACES: Mapping[RiskName, str] = {"eviction": "policy", "memory": "memory"}
"""The check that tells of a risk; all others are the log's."""
_CURES: Mapping[RiskName, str] = {
    "eviction": "CONFIG SET maxmemory-policy noeviction",
    "no_log": "CONFIG SET appendonly yes",
    "fsync": "CONFIG SET appendfsync always",
    "log_rewrite": "BGREWRITEAOF",
    "snapshot": "BGSAVE",
}
_OF_FILES = ("appendonlydir", "appendonly.aof", "dump.rdb")


@dataclass(frozen=True, slots=True)
class Store:
    """One Redis of ours."""

    name: str
    """`redis`, or `results` where answers are kept in another."""
    variable: str
    url: str
    holds_jobs: bool
    holds_answers: bool
    master: tuple[str, int] | None = None
    """The Redis that sentinels name, once they were asked."""

    @property
    def address(self) -> RedisAddress:
        return read_address(self.url)

    @property
    def user(self) -> str:
        """Who we are to it."""
        return self.address.login.get("username", "default")

    def typed(self, command: str) -> str:
        """The command as somebody who may do all would type it; redis-cli takes a password from REDISCLI_AUTH."""
        address, is_redis = self.address, self.master is not None or not self.address.is_sentinel
        where = ["-s", address.socket_path] if address.socket_path else []
        if address.hosts:
            host, port = self.master or address.hosts[0]
            where = ["-h", host, "-p", str(port)]
        where += ["--tls"] if address.scheme == "rediss" else []
        where += ["--user", "admin"] if is_redis and self.user != "default" else []
        return f"{shlex.join(['redis-cli', *where])} {command}"

    @property
    def disk_shown(self) -> str:
        """What shows, typed where it runs, how full the disk is that it writes to."""
        return f'df -h "$({self.typed("CONFIG GET dir")} | tail -n 1)"'


def stores(settings: ClientSettings) -> list[Store]:
    """The Redis that holds the jobs, and the one that holds the answers where it is another."""
    broker, results = settings.broker_url.get_secret_value(), settings.effective_result_url
    one = broker == results
    found = [Store("redis", "RERANKQ_BROKER_URL", broker, holds_jobs=True, holds_answers=one)]
    return (
        found
        if one
        else [*found, Store("results", "RERANKQ_RESULT_URL", results, holds_jobs=False, holds_answers=True)]
    )


def findings(settings: ClientSettings, serves_here: bool) -> Iterator[Finding]:
    """All that can be seen of each, as far as it answers.

    Args:
        serves_here: whether this host has the worker's program, for which a producer's rights are too few.
    """
    for store in stores(settings):
        with redis_client(store.url, ANSWERS_WITHIN_SECONDS) as redis:
            reached = _reached(store, redis, settings)
            yield reached
            if reached.verdict == "broken":
                continue
            there = _found_by_sentinels(store, redis) if store.address.is_sentinel else store
            yield _rights(there, redis, serves_here)
            yield from _risks(there, redis, settings)
            yield _disk(there, redis)
            yield _clock(there, redis)


def _found_by_sentinels(store: Store, redis: "Redis") -> Store:
    pool: Any = redis.connection_pool
    host, port = pool.get_master_address()
    return replace(store, master=(str(host), int(port)))


def _reached(store: Store, redis: "Redis", settings: ClientSettings) -> Finding:
    where = store.address.shown
    try:
        redis.ping()
        began = time.monotonic()
        redis.ping()
        took = time.monotonic() - began
    except AuthenticationError:
        return broken(
            store.name,
            f"the Redis at {where} refuses the user or password of {store.variable}",
            f"export {store.variable}={_with_another_password(store)}",
        )
    except NoPermissionError:
        return broken(
            store.name,
            f"the user {store.user} may not even PING the Redis at {where}",
            store.typed(f"ACL SETUSER {store.user} +ping"),
        )
    except (RedisError, OSError) as error:
        refusal = refusal_in(error)
        return _unreached(store, error) if refusal is None else _refusing(store, refusal)
    return _answered(store, redis, settings, took)


def _with_another_password(store: Store) -> str:
    everything_before_the_host = "://([^/?]*@)?"  # a password may hold an @ itself
    return shlex.quote(re.sub(everything_before_the_host, "://USER:PASSWORD@", store.url))


def _starting(store: Store) -> str:
    """How somebody gets a Redis where the settings look for one."""
    if not place_of(store.variable):
        return "rerankq up"
    address = store.address
    if address.scheme == "redis" and address.hosts[0][0] in _LOOPBACK:
        return (
            f"redis-server --port {address.hosts[0][1]} --appendonly yes --appendfsync always --daemonize yes"
        )
    return f"start it there, or correct {store.variable}, which comes from {place_of(store.variable)}"


def _unreached(store: Store, error: Exception) -> Finding:
    """By what stands at the root of it, which redis-py packs into errors of its own."""
    where, variable = store.address.shown, store.variable
    if store.address.is_sentinel:
        told = f"no Redis is reached by way of {where} ({type(error).__name__})"
        return broken(
            store.name, f"{told}; what they know of masters is told by", store.typed("SENTINEL masters")
        )
    causes = _causes(error)
    uncertified = next((each for each in causes if isinstance(each, ssl.SSLCertVerificationError)), None)
    if uncertified is not None:
        told = f"the certificate of the Redis at {where} is not accepted: {uncertified.verify_message}"
        cure = f"name the host in {variable} as its certificate does, and its authority: ?ssl_ca_certs=/path/of/ca.pem"
        return broken(store.name, told, cure)
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return broken(store.name, f"no TLS is spoken at {where}", f"redis:// in {variable}, or its TLS port")
    if any(isinstance(each, socket.gaierror) for each in causes):
        return broken(store.name, f"no host of that name is known: {where}", f"correct {variable}")
    if isinstance(error, RedisTimeout):
        tls = ", or speaks no TLS" if store.address.scheme == "rediss" else ""
        told = f"the Redis at {where} is silent for {ANSWERS_WITHIN_SECONDS:g} s: frozen, overloaded, or out of reach"
        return broken(store.name, told + tls, f"restart it, or correct {variable}")
    if any(isinstance(each, OSError) and not isinstance(each, ConnectionResetError) for each in causes):
        return broken(store.name, f"no Redis answers at {where} ({type(error).__name__})", _starting(store))
    told = f"what listens at {where} hangs up or talks otherwise: no Redis, or one that speaks TLS alone"
    return broken(store.name, told, f"correct {variable}; TLS is rediss://")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _refusing(store: Store, refusal: Refusal) -> Finding:
    told = f"the Redis at {store.address.shown} refuses: {refusal.what}"
    typed = {"BUSY": store.typed("SCRIPT KILL"), "MISCONF": store.disk_shown}.get(refusal.what)
    if typed is None:
        return broken(store.name, told, refusal.cure)
    return broken(store.name, f"{told}, {refusal.cure}", typed)


def _answered(store: Store, redis: "Redis", settings: ClientSettings, took: float) -> Finding:
    info = _info(redis)
    told = f"{store.address.shown} answers in {took * 1000:.1f} ms, Redis {info.get('redis_version', '')}".rstrip()
    if info.get("cluster_enabled"):
        text = f"{told}; it is part of a cluster, which is no place for a queue"
        return broken(store.name, text, f"name one Redis in {store.variable}, or sentinels")
    if info.get("role") == "slave":
        cure = (
            f"name its master in {store.variable}, or the sentinels: sentinel://HOST:26379/0?master_name=NAME"
        )
        return broken(store.name, f"{told}; it is a replica, to which nothing can be written", cure)
    if took > SLOW_SHARE * settings.redis_timeout_seconds:
        allowed = f"{settings.redis_timeout_seconds:g}"
        return warn(
            store.name,
            f"{told}, and a call that takes {allowed} s counts as down (RERANKQ_REDIS_TIMEOUT_SECONDS)",
            f"export RERANKQ_REDIS_TIMEOUT_SECONDS={max(5.0, 20 * took):.0f}",
        )
    return ok(store.name, told)


def _info(redis: "Redis") -> dict[str, Any]:
    """What it says of itself; nothing where it does not."""
    try:
        told: Any = redis.info()
    except RedisError:
        return {}
    return told


def _rights(store: Store, redis: "Redis", serves_here: bool) -> Finding:
    check, of_worker = f"{store.name}.rights", f"{store.name}.rights.worker"
    asks, serves = _asked(store, PRODUCER, PRODUCER_CHANNELS), _asked(store, WORKER, WORKER_CHANNELS)
    asked = list(dict.fromkeys([*asks, *serves]))
    denied = refused(redis, asked)
    of_producer = {each: rule for each, rule in denied.items() if each in asks or each not in asked}
    if of_producer:
        return _lacking(check, store, denied if serves_here else of_producer, "a producer does")
    if not denied:
        return ok(check, f"the user {store.user} may do all that producers and workers do")
    if not _beyond(asks, [question for question in serves if question not in denied]):
        return ok(check, f"the user {store.user} may do all that a producer does, and not what a worker does")
    lacking = _lacking(of_worker, store, denied, "a worker does")
    return lacking if serves_here else warn(of_worker, lacking.text, lacking.cure)


def _asked(store: Store, rights: Sequence[Right], channels: Sequence[str]) -> list[Question]:
    """Those of rights that this Redis needs: where answers are kept in another, each has its own keys."""

    def is_here(key: str) -> bool:
        return store.holds_answers if key in _OF_RESULTS else store.holds_jobs

    here = [right._replace(keys=[key for key in right.keys if is_here(key)]) for right in rights]
    return questions(here, [channel for channel in channels if is_here(channel)])


def _beyond(asks: Sequence[Question], may: Sequence[Question]) -> bool:
    """Whether somebody who may do this may do more than any producer, even by accident of its rules."""
    commands, patterns = {each.command for each in asks}, {each.pattern for each in asks}
    return any(each.command not in commands or each.pattern not in patterns for each in may)


def _lacking(check: str, store: Store, denied: Mapping[Question, str], whose: str) -> Finding:
    rules = list(dict.fromkeys(denied.values()))
    shown = ", ".join(rules[:6]) + (f" and {len(rules) - 6} more" if len(rules) > 6 else "")
    text = f"the user {store.user} lacks rights for what {whose}: {shown}"
    return broken(check, text, store.typed(shlex.join(["ACL", "SETUSER", store.user, *rules])))


def _risks(store: Store, redis: "Redis", settings: ClientSettings) -> Iterator[Finding]:
    """One line for each kind of loss; of memory, by what admission goes by."""
    try:
        found = read_risks(redis)
    except NoPermissionError:
        yield skipped(f"{store.name}.log", f"the user {store.user} may not ask INFO")
        return
    is_private = store.url == running_broker()
    told: set[str] = set()
    for risk in found:
        place = _PLACES.get(risk.name, "log")
        if place == "memory" or (is_private and risk.name == "no_log"):
            continue
        told.add(place)
        yield _risk(f"{store.name}.{place}", store, risk)
    if "policy" not in told:
        yield ok(f"{store.name}.policy", "nothing is dropped when memory is full")
    if "log" not in told:
        private = "none: this Redis is `rerankq up`'s own and ends with it"
        yield ok(f"{store.name}.log", private if is_private else "what it holds survives a restart")
    yield _memory(store, _info(redis), settings)


def _risk(check: str, store: Store, risk: Risk) -> Finding:
    if risk.name == "log_write":
        return broken(check, risk.text, store.disk_shown)
    text, _, way_out = risk.text.rpartition("; ")
    if risk.name in ("log_rewrite", "snapshot"):  # tried again in vain before that
        text = f"{text}; {way_out}, and then"
    return warn(check, text, store.typed(_CURES[risk.name]))


def _memory(store: Store, info: Mapping[str, Any], settings: ClientSettings) -> Finding:
    check, limit = f"{store.name}.memory", info.get("maxmemory") or settings.max_broker_bytes
    used = info.get("used_memory", 0)
    told = f"{used / limit:.0%} of {limit / 1e6:,.0f} MB are used"
    refused_lanes = [lane for lane, fraction in FULL_FRACTIONS.items() if used > fraction * limit]
    if not refused_lanes:
        return ok(check, told)
    if info.get("maxmemory"):
        cure = store.typed(f"CONFIG SET maxmemory {2 * used}")
    else:
        cure = f"export RERANKQ_MAX_BROKER_BYTES={2 * used}"
    finding = broken if len(refused_lanes) == len(FULL_FRACTIONS) else warn
    text = f"{told}: {' and '.join(refused_lanes)} work is refused until workers, or more of them, have made room"
    return finding(check, text, cure)


def _disk(store: Store, redis: "Redis") -> Finding:
    """What is free where it writes, if that is seen from here; else what would show it."""
    check, info, directory = f"{store.name}.disk", _info(redis), _directory(store, redis)
    wanted = FREE_DISK_SHARE * max(info.get("aof_current_size", 0), info.get("used_memory", 0))
    may_take = f", and rewriting its log may take {wanted / 1e6:,.0f} MB" if wanted else ""
    if directory is None:
        unknown = f"what is free on its disk is not known here{may_take}"
        return skipped(check, f"{unknown}; where it runs: {store.disk_shown}")
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    text = f"{free / 1e6:,.0f} MB are free in {directory}"
    if free > wanted:
        return ok(check, text)
    return warn(check, text + may_take, f"make room in {directory}")


def _directory(store: Store, redis: "Redis") -> Path | None:
    """Where its files are, if they are seen from here."""
    host = "" if store.address.socket_path else (store.master or store.address.hosts[0])[0]
    if host not in ("", *_LOOPBACK):
        return None
    try:
        told: Any = redis.config_get("dir")
    except RedisError:
        return None
    directory = Path(told.get("dir", "/dev/null"))  # often one that nobody else may look into
    return directory if any(os.access(directory / name, os.F_OK) for name in _OF_FILES) else None


def _clock(store: Store, redis: "Redis") -> Finding:
    check = f"{store.name}.clock"
    before = time.time()
    try:
        told: Any = redis.time()
    except RedisError as error:
        return skipped(check, f"it does not tell the time ({type(error).__name__})")
    apart = told[0] + told[1] / 1e6 - (before + time.time()) / 2
    if abs(apart) <= CLOCKS_APART_SECONDS:
        return ok(check, f"{abs(apart):.1f} s from this host's")
    return warn(
        check,
        f"this host's clock and that of Redis are {abs(apart):,.0f} s apart: deadlines go by Redis's and hold, times "
        "in logs do not agree",
        "timedatectl set-ntp true",
    )
