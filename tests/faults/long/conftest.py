"""What the tests of the transport and of HTTP stand on, for their faults that lie here."""

from tests.http.conftest import live as live
from tests.http.conftest import witnessed as witnessed
from tests.transport.conftest import app as app
from tests.transport.conftest import server as server
from tests.transport.conftest import wait_until as wait_until
