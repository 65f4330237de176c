"""The one error of a local service."""

from rerankq.contract.errors import RerankError


class Unavailable(RerankError):
    """A program that this machine should have is missing, or died before it was of use."""
