"""Frozen specs are compiled once per version and again when they change."""

from dataclasses import replace

import orjson

from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import VERSIONS_MAX, CompiledJobs, compile_job
from tests.streams.making import make_row, make_spec


def test_a_version_is_compiled_once_until_the_frozen_text_changes() -> None:
    jobs, spec = CompiledJobs(), make_spec()
    row = make_row(spec)
    first = jobs.of(row)
    assert first is not None
    assert jobs.of(replace(row, paused=True, last_command_id="other")) is first
    moved = replace(spec, place=replace(spec.place, table="elsewhere"))
    assert version_of(moved) == version_of(spec), "place may change without a new version"
    second = jobs.of(make_row(moved))
    assert second is not None
    assert second.spec.place.table == "elsewhere"


def test_an_unknown_version_is_none() -> None:
    assert CompiledJobs().of(make_row(make_spec()), "unheard-of") is None


def test_older_versions_stay_within_reach() -> None:
    old, new = make_row(make_spec()), make_row(make_spec(user="{{ input.body }}!"))
    both = replace(
        new, versions_json=orjson.dumps(orjson.loads(old.versions_json) | orjson.loads(new.versions_json)).decode()
    )
    jobs = CompiledJobs()
    for version in (old.version, new.version):
        job = jobs.of(both, version)
        assert job is not None
        assert job.version == version


def test_the_cache_is_bounded() -> None:
    jobs, spec = CompiledJobs(), make_spec()
    for number in range(VERSIONS_MAX + 5):
        jobs.of(replace(make_row(spec), job=f"job-{number}"))
    assert len(jobs._compiled) == VERSIONS_MAX


def test_compiling_twice_gives_the_same_questions() -> None:
    one, two = (compile_job(make_spec(), "v") for _ in range(2))
    assert one.routes.of("").form.body('{"body":"x"}') == two.routes.of("").form.body('{"body":"x"}')
