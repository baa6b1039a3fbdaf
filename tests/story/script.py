"""The persons of the story: records, live records, records whose label the gate knows, and three versions of one job.

Real labelled sentences: the first ones are published twice, under two source ids; the next ones are the benchmark; what
is left comes live. What must not: Kafka, processes, judgements.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchmill.agents.demo.events import Sentence, gold_lines, sentences

__all__ = ["ACCURACY", "JOB", "LIVE", "MODELS", "Script", "job_folders", "script_of", "write_gold", "write_records"]

JOB = "sentiment"
MODELS = {"v1": "gpt-4o-mini", "v2": "gpt-4.1-nano", "v3": "gpt-4.1-mini"}
#: how often the simulator's model is right
ACCURACY = {"v1": 0.85, "v2": 0.60, "v3": 0.97}
#: what the later versions say in the place of the first one's instruction
_SYSTEM = {
    "v2": 'Sentiment of the sentence: "pos", "neg" or "neu".\n',
    "v3": 'Label what a sentence expresses: "pos" or "neg" if it is a judgement, else "neu". Irony counts as meant.\n',
}
_FOLDER = Path(__file__).with_name("job")
_LIVE_MAX = 6_000  #: live records there are; the story ends before they do
#: source ids begin with what they are
_RECORD, LIVE, _GOLD = "s", "live", "gold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one run publishes, and how large its samples are."""

    records: tuple[Sentence, ...]
    gold: tuple[Sentence, ...]
    live: tuple[Sentence, ...]
    sample: int  #: records that a version is tried out on
    per_second: float  #: of the replay

    @property
    def labels(self) -> dict[str, str]:
        """Of every source of the sink the label that people gave."""
        return {each.id: each.label for each in (*self.records, *self.live)}


def script_of(count: int) -> Script:
    """`count` records, a sample of 3 in 100 of them, 60 at least."""
    half, gold = -(-count // 2), max(60, count // 50)
    texts = sentences(half + gold + _LIVE_MAX)
    return Script(
        records=tuple(_named(texts[at % half], f"{_RECORD}-{at:05d}") for at in range(count)),
        gold=tuple(_named(each, f"{_GOLD}-{at:04d}") for at, each in enumerate(texts[half : half + gold])),
        live=tuple(_named(each, f"{LIVE}-{at:05d}") for at, each in enumerate(texts[half + gold :])),
        sample=max(60, count * 3 // 100),
        per_second=max(60.0, count / 100),
    )


def job_folders(script: Script, folder: Path) -> dict[str, Path]:
    """Version -> its job folder, with the benchmark beside it."""
    made = {}
    for name, model in MODELS.items():
        made[name] = Path(shutil.copytree(_FOLDER, folder / name))
        (made[name] / "gold.jsonl").write_text("".join(_benchmark(script.gold)), encoding="utf-8")
        job = made[name] / "job.yaml"
        job.write_text(job.read_text(encoding="utf-8").replace(MODELS["v1"], model), encoding="utf-8")
        if name in _SYSTEM:
            (made[name] / "system.j2").write_text(_SYSTEM[name], encoding="utf-8")
    return made


def write_records(script: Script, file: Path) -> Path:
    """As JSON lines, for `batchmill ingest`; without labels."""
    lines = (json.dumps({"id": each.id, "text": each.text, "domain": each.domain}) + "\n" for each in script.records)
    file.write_text("".join(lines), encoding="utf-8")
    return file


def write_gold(script: Script, file: Path) -> Path:
    """What the simulator knows of every sentence."""
    file.write_text("".join(gold_lines([*script.records, *script.gold, *script.live])), encoding="utf-8")
    return file


def _benchmark(known: Sequence[Sentence]) -> Iterator[str]:
    for each in known:
        row = {"id": each.id, "input": json.loads(each.event()), "output": {"label": each.label}}
        yield json.dumps(row) + "\n"


def _named(sentence: Sentence, name: str) -> Sentence:
    return Sentence(name, sentence.text, sentence.domain, sentence.label)
