"""The connections that the face accepts."""

import socket

from rerankq.http import server


def test_no_reply_waits_for_word_that_its_head_has_come() -> None:
    with (
        server._listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
