"""Who owns which task: one decision per partition number, for all topics at once.

What lives here: the pure decision `assign_tasks` and its Faust shell. What must not: looking at topics one by one; the
records of a request would meet in different workers.

Words: a task is a partition number. A member that knows fewer topics (an older version, during a rolling upgrade) gets
its tasks in the topics it knows; members that know the most come first when someone must take one more.
"""

from collections.abc import Collection, Mapping
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor

__all__ = ["TaskAssignor", "assign_tasks"]


def assign_tasks(
    tasks: int, topics: Mapping[str, Collection[str]], previous: Mapping[str, Collection[int]]
) -> dict[str, list[int]]:
    """Every task to exactly one member; loads differ by at most one; a task stays where it was if that is fair.

    A task that several members claim (one of them is out of date) belongs to none of them.
    """
    order = sorted(topics, key=lambda member: (-len(set(topics[member])), member))
    share, extra = divmod(tasks, len(order))
    claims = _claims(tasks, previous, order)
    owned: dict[str, list[int]] = {member: [] for member in order}
    # The members that hold the most keep the larger shares: fewer tasks move.
    held = sorted(order, key=lambda member: -sum(1 for owner in claims.values() if owner == member))
    quota = {member: share + (1 if place < extra else 0) for place, member in enumerate(held)}
    homeless = []
    for task in range(tasks):
        owner = claims.get(task)
        if owner is not None and len(owned[owner]) < quota[owner]:
            owned[owner].append(task)
        else:
            homeless.append(task)
    for task in homeless:
        taker = next(member for member in order if len(owned[member]) < quota[member])
        owned[taker].append(task)
    return {member: sorted(owned[member]) for member in topics}


def _claims(tasks: int, previous: Mapping[str, Collection[int]], members: Collection[str]) -> dict[int, str]:
    claimed: dict[int, list[str]] = {}
    for member in members:
        for task in set(previous.get(member, ())):
            if 0 <= task < tasks:
                claimed.setdefault(task, []).append(member)
    return {task: owners[0] for task, owners in claimed.items() if len(owners) == 1}


class TaskAssignor(PartitionAssignor):
    """Faust's assignor with our decision in it; subscription and metadata travel as Faust has them."""

    def _perform_assignment(self, cluster: Any, member_metadata: Any) -> Any:
        known = {member: self._get_client_metadata(data) for member, data in member_metadata.items()}
        topics = {member: sorted(data.subscription) for member, data in member_metadata.items()}
        self._update_member_urls(known)
        previous = {
            member: {task for tasks in data.assignment.actives.values() for task in tasks}
            for member, data in known.items()
        }
        owned = assign_tasks(self._tasks(cluster, topics), topics, previous)
        assignments = {
            member: ClientAssignment(actives={topic: list(owned[member]) for topic in topics[member]}, standbys={})
            for member in topics
        }
        every_topic = {topic: 0 for known_topics in topics.values() for topic in known_topics}
        return self._protocol_assignments(assignments, {}, {}, every_topic)

    @staticmethod
    def _tasks(cluster: Any, topics: Mapping[str, Collection[str]]) -> int:
        """Start-up has verified that all topics have the same number of partitions; a new topic may be unknown yet."""
        every_topic = {topic for known in topics.values() for topic in known}
        return max((len(cluster.partitions_for_topic(topic) or ()) for topic in every_topic), default=0)
