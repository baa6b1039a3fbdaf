"""Where a job's output goes is looked at before anything is paid: names a sink refuses, and ways it does not have."""

import pytest

from batchmill.agents.jobs import JobFileError, load_job

JOB = """\
job: triage
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: gpt-5-mini}
place:
  sink: SINK
  table: TABLE
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "user.j2").write_text("Sort this: {{ input.body }}")

    def loading(sink, table, *more):
        text = JOB.replace("SINK", sink).replace("TABLE", table)
        (tmp_path / "job.yaml").write_text(text + "".join(f"  {line}\n" for line in more))
        return load_job(tmp_path).spec.place

    return loading


@pytest.mark.parametrize(
    ("sink", "table"),
    [
        ("sqlite", "Triage"),
        ("sqlite", "x__history"),
        ("sqlite", "mill.triage"),
        ("postgres", "a" * 55),
        ("postgres", "A"),
    ],
)
def test_a_name_that_the_sink_refuses_is_told_with_its_line(load, sink, table):
    with pytest.raises(JobFileError, match=rf"job\.yaml:7: error: place\.table of the sink {sink} must"):
        load(sink, table)


@pytest.mark.parametrize(
    ("sink", "table"),
    [("sqlite", "triage"), ("postgres", "mill.triage"), ("jsonl", "Triage-1"), ("webhook", "x"), ("kafka", "out.v1")],
)
def test_a_name_that_it_takes_is_taken(load, sink, table):
    assert load(sink, table).table == table


def test_files_are_split_up_and_nothing_else_is(load):
    assert load("jsonl", "triage", "partition: date").partition == "date"
    assert load("parquet", "triage", "partition: $.label").partition == "$.label"
    with pytest.raises(JobFileError, match=r"job\.yaml:8: error: place\.partition is for files"):
        load("sqlite", "triage", "partition: date")
    with pytest.raises(JobFileError, match=r"job\.yaml:8: error: place\.partition: cannot read the path"):
        load("jsonl", "triage", "partition: $.a..b")
