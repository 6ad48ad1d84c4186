"""Metrics: what happens to the requests -> Prometheus's text."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from paddlevid.serve.refusal import OUTCOMES

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one service.

    Args:
        under_way: tells how many requests are being received, read or predicted.
        waiting: tells how many videos wait for a reader.
    """

    def __init__(self, under_way: Callable[[], int], waiting: Callable[[], int]) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter(
            "paddlevid_requests", "Requests for a prediction, by what came of them.", ["outcome"],
            registry=own,
        )  # fmt: skip
        for outcome in OUTCOMES:
            self.requests.labels(outcome)  # 0 is said too
        for name, text, tell in (
            ("under_way", "Requests that are being received, read or predicted.", under_way),
            ("queue_length", "Videos that wait for a process to read them.", waiting),
        ):
            Gauge(f"paddlevid_{name}", text, registry=own).set_function(tell)
        self.batch_size = Histogram(
            "paddlevid_batch_size", "Videos that were predicted together.", registry=own,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )  # fmt: skip
        self.reading = Histogram(
            "paddlevid_decoding_seconds", "Time to decode a video.", registry=own, buckets=_SECONDS
        )
        self.network = Histogram(
            "paddlevid_network_seconds", "Time of the network for a batch.", registry=own,
            buckets=_SECONDS,
        )  # fmt: skip

    def text(self) -> bytes:
        """All figures as Prometheus reads them."""
        return generate_latest(self._registry)
