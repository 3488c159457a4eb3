"""Counters for `/metrics`, in Prometheus' format. None reveals what was said."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """Counts since the server started."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "moonshine_lora", "registry": self._registry}
        self.requests = Counter("requests", "Requests that were answered", ["protocol", "status"], **own)
        self.sound = Counter("sound_seconds", "Seconds of sound that were transcribed", ["model"], **own)
        self.places = Gauge("requests_in_progress", "Requests that are received, wait or are computed", **own)
        self.took = Histogram(
            "request_seconds", "Time from a request's first byte to its answer", buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300), **own
        )
        self.batch = Histogram("batch_clips", "Clips in each round of decoding", buckets=(1, 2, 4, 8, 16, 32, 64), **own)

    def text(self) -> bytes:
        """All of it, as it is read by Prometheus."""
        return generate_latest(self._registry)
