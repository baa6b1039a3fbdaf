"""Batch files of OpenAI and Anthropic, in and out: requests and results, one JSON object a line, joined by id.

forms       what a line says, in either form: pure
results     a result of ours as a line of either form: pure
exporting   requests and results of a job, out of the read model and the log
joining     result lines, joined to the requests that wait: what would become of each
importing   the joined lines, given to the tasks by a command
"""

__all__: list[str] = []  # nothing is promised at this level: import from the modules
