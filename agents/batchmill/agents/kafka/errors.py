"""What can go wrong with a broker of ours, as one exception."""

__all__ = ["KafkaStartError"]


class KafkaStartError(Exception):
    """No broker could be had: what was tried, why it failed, what to do."""
