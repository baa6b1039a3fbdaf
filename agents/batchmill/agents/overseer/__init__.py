"""The one process that hands out what all tasks share: budgets, queues at providers, batch creations.

It reads the `state` topic of every task and writes `control`; it calls no provider and keeps nothing on disk. What is
handed out, and to whom, is decided in `streams.overseeing`.
"""

from batchmill.agents.overseer.overseer import Overseer, limits_of

__all__ = ["Overseer", "limits_of"]
