"""A job as people write it: a folder with a `job.yaml`, its templates and its schemas, read into the frozen `JobSpec`.

`job.schema.json` is the published grammar of `job.yaml`, for editors and for the loader alike. What a job *means* is
`schemas.jobs` and `streams`; here is only reading, and saying precisely what is wrong.
"""

from batchmill.agents.jobs.loader import LoadedJob, job_schema, load_job
from batchmill.agents.jobs.problems import JobFileError, Problem

__all__ = ["JobFileError", "LoadedJob", "Problem", "job_schema", "load_job"]
