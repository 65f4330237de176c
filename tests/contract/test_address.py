"""What a Redis URL means, and that what is not understood by everybody is refused."""

import pytest

from rerankq.contract.address import RedisAddress, read_address
from rerankq.contract.broker import celery_app

SEVERAL = "sentinel://me:p%40ss@host-a/3;sentinel://me:p%40ss@host-b:26380/3?master_name=rerankq"
HERE = (("127.0.0.1", 6379),)

SPELLINGS = {
    "plain": ("redis://127.0.0.1:6379/0", RedisAddress("redis", HERE)),
    "nothing but the scheme": ("redis://", RedisAddress("redis", HERE)),
    "slashes": ("redis://127.0.0.1/3//", RedisAddress("redis", HERE, database=3)),
    "a database as an option": ("REDIS://127.0.0.1?db=3", RedisAddress("redis", HERE, database=3)),
    "both": ("redis://127.0.0.1/3?db=3", RedisAddress("redis", HERE, database=3)),
    "ipv6": ("redis://[::1]:7000", RedisAddress("redis", (("::1", 7000),))),
    "a user alone": ("redis://me@127.0.0.1", RedisAddress("redis", HERE, login={"username": "me"})),
    "an empty user": ("redis://:p%2F%25s@127.0.0.1", RedisAddress("redis", HERE, login={"password": "p/%s"})),
    "a socket": ("unix:///run/a%20b.sock", RedisAddress("unix", socket_path="/run/a b.sock")),
    "celery's socket": (
        "redis+socket://me:p@/run/r.sock?virtual_host=2",
        RedisAddress(
            "unix", socket_path="/run/r.sock", database=2, login={"username": "me", "password": "p"}
        ),
    ),
    "tls": (
        "rediss://127.0.0.1",
        RedisAddress("rediss", HERE, tls={"ssl_cert_reqs": "required", "ssl_check_hostname": True}),
    ),
    "tls unchecked": (
        "rediss://127.0.0.1?ssl_cert_reqs=CERT_NONE",
        RedisAddress("rediss", HERE, tls={"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
    ),
    "options": (
        "redis://127.0.0.1?health_check_interval=10&client_name=web&protocol=3",
        RedisAddress(
            "redis", HERE, options={"health_check_interval": 10, "client_name": "web", "protocol": 3}
        ),
    ),
    "sentinels": (
        SEVERAL,
        RedisAddress(
            "sentinel",
            (("host-a", 26379), ("host-b", 26380)),
            database=3,
            login={"username": "me", "password": "p@ss"},
            master_name="rerankq",
        ),
    ),
}


@pytest.mark.parametrize(("url", "meant"), SPELLINGS.values(), ids=SPELLINGS)
def test_each_spelling_is_understood_and_celery_is_told_the_same(url: str, meant: RedisAddress) -> None:
    address = read_address(url)

    assert address == meant
    again = read_address(address.for_celery())
    assert (again.scheme, again.hosts, again.socket_path) == (meant.scheme, meant.hosts, meant.socket_path)
    assert (again.database, again.login) == (meant.database, meant.login)


def test_a_master_without_a_name_has_sentinels_own() -> None:
    assert read_address("sentinel://127.0.0.1:26379").master_name == "mymaster"


def test_celery_gets_the_masters_name_as_an_option_and_the_url_without() -> None:
    app = celery_app("test", SEVERAL, "redis://127.0.0.1/0", socket_timeout_seconds=1, result_ttl_seconds=60)

    assert "master_name" not in app.conf.broker_url
    assert app.conf.broker_transport_options["master_name"] == "rerankq"
    assert "master_name" not in app.conf.result_backend_transport_options


WRONG = {
    "another service": ("amqp://:secret@host", "starts with one of redis://"),
    "no scheme": ("secret", "starts with one of redis://"),
    "a sentinel without a host": ("sentinel://", "without a host"),
    "sentinels of two kinds": ("sentinel://host/0;redis://host/0", "several sentinels"),
    "a database that is no number": ("redis://host/zero", "number of a database"),
    "two databases": ("redis://host/1?db=2", "one number of a database"),
    "a password for a port": ("redis://host:secret/0", "port after the host"),
    "a # in a password": ("redis://:sec#ret@host/0", "%XX"),
    "a / in a password": ("redis://:sec/ret@host/0", "%XX"),
    "a ? in a password": ("redis://:sec?ret@host/0", "%XX"),
    "a bracket in a password": ("redis://:sec[ret@host/0", "%XX"),
    "half an ipv6 address": ("redis://[::1/0", "%XX"),
    "a time limit": ("redis://host/0?timeout=3", "no timeout in the URL: RERANKQ_REDIS_TIMEOUT_SECONDS"),
    "another time limit": ("redis://host/0?socket_timeout=3", "no socket_timeout in the URL"),
    "an option of redis-py's that Celery trips over": (
        "redis://host/0?decode_responses=1",
        "no options after \\?",
    ),
    "an older protocol": ("redis://host/0?protocol=2", "protocol to be 3"),
    "an interval that is none": ("redis://host/0?health_check_interval=often", "whole number"),
    "a name with a space": ("redis://host/0?client_name=a%20b", "client_name"),
    "tls without tls": ("redis://host/0?ssl_cert_reqs=none", "rediss:// only"),
    "tls to a sentinel": ("sentinel://host/0?ssl_cert_reqs=none", "rediss:// only"),
    "a check that is none": ("rediss://host/0?ssl_cert_reqs=maybe", "ssl_cert_reqs to be one of"),
    "a switch that is none": ("rediss://host/0?ssl_check_hostname=maybe", "true or false"),
    "a certificate that is not there": (
        "rediss://host/0?ssl_ca_certs=/absent",
        "ssl_ca_certs to name readable",
    ),
    "a certificate that is none": (
        f"rediss://host/0?ssl_ca_certs={__file__}",
        "ssl_ca_certs to name readable",
    ),
    "a socket without a path": ("unix://", "three slashes"),
    "a socket on a host": ("unix://run/redis.sock", "three slashes"),
}


@pytest.mark.parametrize(("url", "message"), WRONG.values(), ids=WRONG)
def test_anything_else_is_refused_in_one_line_without_quoting_it(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_address(url)

    assert not any(word in str(refused.value) for word in ("secret", "ret@", "\n"))
