"""The review desk: what waits for a person, who looks at it, what they decide. One desk, three doors: pages, API, CLI.

What lives here: reading the queue, locks, writing decisions, progress, agreement, calibration, export. What must not:
what a decision does (`streams.reviewing`), HTML, HTTP, terminals.
"""

__all__: list[str] = []
