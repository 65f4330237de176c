"""Which URLs the transport answers to, and which kombu it refuses."""

import kombu
import pytest
from kombu import Connection

from rerankq.contract import transport
from rerankq.contract.transport import channel


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///tmp/r"], ids=str)
def test_redis_urls_lead_to_our_transport(url: str):
    transport.install()

    assert Connection(url).get_transport_cls() is channel.LeasedTransport


def test_sentinel_urls_lead_to_our_transport():
    transport.install()

    assert Connection("sentinel://h").get_transport_cls() is channel.SentinelTransport


def test_an_unknown_kombu_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kombu, "__version__", "5.8.0")

    with pytest.raises(transport.UnknownKombu, match=r"expected kombu 5\.7\.x, got 5\.8\.0.*pip install"):
        transport.install()
