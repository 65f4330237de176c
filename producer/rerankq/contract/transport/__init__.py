"""The Redis transport that loses nothing: `install()` puts it behind redis://, rediss:// and sentinel://.

The life of a message:

1. `PUSH`: onto the list of its lane, and a ring on the bell (`<lane>.bell`) that idle workers wait on. The job of a
   message that names its record is open from now on (`<lane>.open`).
2. `FETCH`: off the list and into `rerankq:held` under a lease of 15 s (`rerankq:leases`), in one script. The
   worker's main process renews the lease every 5 s, whatever the job is doing: a long job is not a dead one.
3. `ACK`: out of `rerankq:held`, its payload and its open job with it. A worker that was silent for longer than its
   lease finds the message gone, deletes nothing, and says so in its log.
4. Or `PUT_BACK`: every worker sweeps every 2 s for leases that ran out. The header `x-deliveries` is raised
   and the message goes back to the front of its list, the second time after a pause in `rerankq:delayed`. A
   worker that stops in good order puts back what it holds without raising the count.
5. Or it vanishes: purged, deleted, evicted, renamed away. A sweep finds its open job, and the worker ends that.
"""

import kombu
from kombu import transport as kombu_transport

from rerankq.contract.transport.envelope import (
    DELIVERIES_HEADER,
    PAYLOAD_HEADER,
    PAYLOAD_KEY_PREFIX,
    RECORD_HEADER,
    deliveries,
)
from rerankq.contract.transport.open_jobs import set_vanished_handler
from rerankq.contract.transport.outage import UNREACHABLE, carry_over, hand_back_later, is_passing, outage
from rerankq.contract.transport.qos import set_ready_gate, set_teller

__all__ = [
    "DELIVERIES_HEADER",
    "PAYLOAD_HEADER",
    "PAYLOAD_KEY_PREFIX",
    "RECORD_HEADER",
    "UNREACHABLE",
    "UnknownKombu",
    "carry_over",
    "deliveries",
    "hand_back_later",
    "install",
    "is_passing",
    "outage",
    "set_ready_gate",
    "set_teller",
    "set_vanished_handler",
]

KNOWN_KOMBU = "5.7."
_ALIASES = {
    "redis": "rerankq.contract.transport.channel:LeasedTransport",
    "rediss": "rerankq.contract.transport.channel:LeasedTransport",
    "sentinel": "rerankq.contract.transport.channel:SentinelTransport",
}


class UnknownKombu(RuntimeError):
    """The installed kombu is one whose internals this transport has not been tested against."""


def install() -> None:
    """Use this transport for every Redis URL of this process; call it before the first connection is made.

    Raises:
        UnknownKombu: another kombu than 5.7 is installed.
    """
    if not kombu.__version__.startswith(KNOWN_KOMBU):
        raise UnknownKombu(
            f"expected kombu {KNOWN_KOMBU}x, got {kombu.__version__}; the transport stands on its internals: "
            f"pip install 'kombu>=5.7,<5.8'"
        )
    for scheme, path in _ALIASES.items():
        kombu_transport.TRANSPORT_ALIASES[scheme] = path
        kombu_transport._transport_cache.pop(scheme, None)  # pyright: ignore[reportPrivateUsage] - one contract test
