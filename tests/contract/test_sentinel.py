"""What a `sentinel://` URL may say."""

import pytest

from rerankq.contract.broker import celery_app
from rerankq.contract.sentinel import read_sentinel_url

SEVERAL = "sentinel://me:p%40ss@host-a/3;sentinel://me:p%40ss@host-b:26380/3?master_name=rerankq"


def test_a_url_names_sentinels_and_the_master_with_its_login() -> None:
    asked = read_sentinel_url(SEVERAL)

    assert asked.sentinels == [("host-a", 26379), ("host-b", 26380)]
    assert asked.master_name == "rerankq"
    assert asked.login == {"db": 3, "username": "me", "password": "p@ss"}


def test_a_master_without_a_name_has_sentinels_own() -> None:
    asked = read_sentinel_url("sentinel://127.0.0.1:26379")

    assert (asked.master_name, asked.login) == ("mymaster", {"db": 0})


def test_celery_gets_the_name_as_an_option_and_the_url_without() -> None:
    app = celery_app("test", SEVERAL, "redis://127.0.0.1/0", socket_timeout_seconds=1, result_ttl_seconds=60)

    assert "master_name" not in app.conf.broker_url
    assert app.conf.broker_transport_options["master_name"] == "rerankq"
    assert "master_name" not in app.conf.result_backend_transport_options


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://",
        "sentinel://host/zero",
        "sentinel://host:secret/0",
        "sentinel://host/0?ssl_cert_reqs=none",
        "sentinel://host/0;redis://host/0",
    ],
)
def test_anything_else_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        read_sentinel_url(url)

    assert "secret" not in str(refused.value)
