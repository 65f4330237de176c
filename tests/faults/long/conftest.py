"""What the transport's tests stand on, for those of its workers' faults that lie here."""

from tests.transport.conftest import app as app
from tests.transport.conftest import server as server
from tests.transport.conftest import wait_until as wait_until
