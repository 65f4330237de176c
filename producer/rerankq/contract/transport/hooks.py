"""What a worker lets the transport of its process ask, and has it tell; without a worker there is nobody."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rerankq.contract.errors import RerankError

if TYPE_CHECKING:
    from rerankq.contract.transport.dead_letters import DeadLetter


@dataclass(slots=True)
class Hooks:
    """Each is called from the event loop, so it must be quick and must not raise."""

    is_ready: Callable[[], bool] | None = None
    """No message is taken while it is False; asked several times a second."""
    lists_of: Callable[[str], Sequence[str]] | None = None
    """The lists that a queue stands for, read in turns; asked at each fetch. Without it, the one of its own name."""
    tell: Callable[[str, RerankError], None] | None = None
    """Told of each job that is set aside, and why; what nobody is told here, a worker tells later."""
    note_dead: Callable[["DeadLetter", Mapping[str, Any]], None] | None = None
    """Told of each message that is set aside, and the message's headers, for the log."""
    end_vanished: Callable[[str], bool] | None = None
    """Asked to end each job whose message has vanished, until it says that the job has ended."""


hooks = Hooks()
