"""What a record is: names, ids, frozen jobs and versions, shapes, bytes. No Kafka, no HTTP, no clock, no other room.

Start with `records` (one class per topic) and `state` (one per table of a task's memory).
"""

__all__: list[str] = []  # modules are imported by name, so that importing one does not load the codec
