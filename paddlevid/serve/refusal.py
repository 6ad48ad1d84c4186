"""Refusals: why a request gets no answer, and the status that says so."""


class Refusal(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        outcome: one of OUTCOMES, which the metrics count.
        reason: in words, for whoever sent the request.
    """

    def __init__(self, status: int, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.outcome, self.reason = status, outcome, reason


OUTCOMES = (
    "answered",
    "broken",  # no video, or one that cannot be read
    "too_large",
    "late",  # the upload, or reading the file, took too long
    "busy",  # too many requests, or the network was too slow
    "refused",  # a wrong request
    "gone",  # the client left while it sent
    "failed",  # a fault of the service
)
