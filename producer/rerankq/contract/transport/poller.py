"""The round of one connection's channels: what comes is delivered, leases are renewed, a refusal is waited out.

Knows no message and no script: these are its channels'.
"""

from time import monotonic
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.exceptions import ResponseError

from rerankq.contract.transport.outage import ASK_AGAIN_SECONDS, outage

RENEWALS_PER_LEASE = 3


class Poller(kombu_redis.MultiChannelPoller):
    """Waits on all channels of a connection, and keeps their leases."""

    _renewed_at = float("-inf")
    _restore_messages_tref: Any = None
    _renew_tref: Any = None
    _loop: Any = None

    def keep_time(self, loop: Any, sweep_every_seconds: float, renew_every_seconds: float) -> None:
        """Sweep and renew from the event loop, in place of the timers of kombu and of a lost connection."""
        for timer in (self._restore_messages_tref, self._renew_tref):
            if timer is not None:
                timer.cancel()
        self._loop = loop
        self._restore_messages_tref = loop.call_repeatedly(sweep_every_seconds, self.maybe_restore_messages)
        self._renew_tref = loop.call_repeatedly(renew_every_seconds, self.renew_leases)

    @property
    def has_loop(self) -> bool:
        """Whether an event loop calls `on_poll_start` in each of its turns."""
        return self._loop is not None

    def on_poll_start(self) -> None:
        try:
            super().on_poll_start()
        except ResponseError as error:
            self._note_refusal(error)
        for channel in list(self._channels):
            if channel.active_queues and not channel._in_poll:
                channel.qos.send_acks()  # no fetch took them along

    def on_readable(self, fileno: int) -> Any:
        try:
            return super().on_readable(fileno)
        except ResponseError as error:
            self._note_refusal(error)
            return None

    def maybe_refresh_binding_expiry(self) -> None:
        for channel in list(self._channels):
            try:
                channel.maybe_refresh_binding_expiry()
            except (ResponseError, *channel.connection_errors):
                return  # the poll finds out; kombu writes a traceback every second

    def _note_refusal(self, error: ResponseError) -> None:
        """Redis answered with an error: ask again in a moment. The connection is as good as before."""
        outage.note(error)
        outage.pause()
        if self._loop is not None:
            self._loop.call_later(ASK_AGAIN_SECONDS, _wake)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """One round without an event loop: nothing else would renew the leases here."""
        self.renew_leases()
        return super().get(callback, timeout)

    def renew_leases(self) -> None:
        for channel in list(self._channels):
            if not channel.active_queues:
                continue
            if monotonic() - self._renewed_at < channel.visibility_timeout / RENEWALS_PER_LEASE / 2:
                return
            try:
                channel.qos.renew()
            except channel.connection_errors:
                return  # the poll that follows finds the connection broken and says so
            except ResponseError as error:
                self._note_refusal(error)
                return
        self._renewed_at = monotonic()


def _wake() -> None:
    """End a wait of the event loop: it looks at its channels afterwards."""
