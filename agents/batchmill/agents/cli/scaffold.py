"""The files `batchmill init` writes: the smallest job that shows every part, and sample events to try it with."""

import re
from importlib.resources import files

__all__ = ["files_of"]

_NAMES = ("input.schema.json", "output.schema.json", "system.j2", "user.j2", "examples.jsonl", "samples.jsonl")
_UNFIT = re.compile(r"[^A-Za-z0-9]+")


def files_of(name: str) -> dict[str, str]:
    """File name -> text, for a job called like its folder."""
    job = _UNFIT.sub("-", name).strip("-").lower() or "first"
    table = job.replace("-", "_")
    if not table[0].isalpha():
        table = f"job_{table}"
    folder = files(__package__).joinpath("scaffold_files")
    yaml = folder.joinpath("job.yaml").read_text("utf-8")
    made = {"job.yaml": yaml.replace("__JOB__", job).replace("__TABLE__", table)}
    return made | {each: folder.joinpath(each).read_text("utf-8") for each in _NAMES}
