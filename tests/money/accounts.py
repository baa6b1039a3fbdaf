"""Which providers are put to the test, and how a job and an account are told for each.

What lives here: plain facts, one row each. `look_up` says how a batch is found again when the answer to its create call
was lost; where there is none, a documented number of calls may be paid twice and the product has to say so itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from batchmill.agents.jobs import LoadedJob, load_job
from batchmill.schemas.asking import ModelSpec
from batchmill.schemas.jobs import OnlineSpec
from batchmill.schemas.versions import version_of
from tests.chaos.mill import TUNING
from tests.chaos.workload import JOB_DIR

__all__ = ["ACCOUNTS", "Account"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One provider as the money table knows it."""

    name: str
    kind: str
    path: str  #: of the API below the simulator's root
    model: str
    endpoint: str
    look_up: str | None  #: None: nothing can be looked up, a crash leaves calls in doubt
    mode: str = "batch"
    tells_usage: bool = False  #: of a batch as a whole, so that a row which told nothing costs what is left

    def job(self, *, chunk_count: int) -> LoadedJob:
        """The marks job, asked of this provider, in small chunks."""
        loaded = load_job(JOB_DIR)
        spec = loaded.spec
        model = ModelSpec(
            provider=self.kind,
            name=self.model,
            account=self.name,
            endpoint=self.endpoint,
            params_json=json.dumps({"max_output_tokens": 400}),
        )
        mode = replace(
            spec.mode,
            prefer=self.mode,
            chunk=replace(spec.mode.chunk, max_count=chunk_count, max_age_seconds=1),
            online=OnlineSpec(max_count=chunk_count),
        )
        spec = replace(spec, ask=replace(spec.ask, model=model), mode=mode)
        return LoadedJob(spec=spec, version=version_of(spec), file=loaded.file, warnings=())

    def overrides(self, base_url: str) -> Mapping[str, Any]:
        """Settings of the account, in the proportions of the chaos runs."""
        tuned = {
            name.replace("accounts.openai.", f"accounts.{self.name}."): value
            for name, value in TUNING.items()
            if name.startswith("accounts.openai.")
        }
        return tuned | {
            f"accounts.{self.name}.kind": self.kind,
            f"accounts.{self.name}.base_url": f"{base_url}{self.path}",
            f"accounts.{self.name}.api_key": "any",
            f"accounts.{self.name}.clock_skew_seconds": 2,
            f"accounts.{self.name}.online_timeout_seconds": 3,
        }


ACCOUNTS: Mapping[str, Account] = {
    each.name: each
    for each in (
        Account(
            name="openai",
            kind="openai",
            path="/v1",
            model="gpt-5-mini",
            endpoint="/v1/chat/completions",
            look_up="metadata",
            tells_usage=True,
        ),
        Account(
            name="azure",
            kind="azure",
            path="/openai/v1",
            model="gpt-5-mini",
            endpoint="/v1/chat/completions",
            look_up="metadata",
            tells_usage=True,
        ),
        Account(
            name="anthropic",
            kind="anthropic",
            path="",
            model="claude-haiku-4-5",
            endpoint="/v1/messages",
            look_up="time, count and nonce",
        ),
        Account(
            name="online",
            kind="openai",
            path="/v1",
            model="gpt-5-mini",
            endpoint="/v1/chat/completions",
            look_up=None,
            mode="online",
        ),
        Account(
            name="online-anthropic",
            kind="anthropic",
            path="",
            model="claude-haiku-4-5",
            endpoint="/v1/messages",
            look_up=None,
            mode="online",
        ),
        Account(
            name="gemini",
            kind="gemini",
            path="/gemini",
            model="gemini-2.5-flash",
            endpoint="generateContent",
            look_up="display name",
        ),
        Account(
            name="mistral",
            kind="mistral",
            path="/mistral/v1",
            model="mistral-small-latest",
            endpoint="/v1/chat/completions",
            look_up="metadata",
        ),
    )
}
