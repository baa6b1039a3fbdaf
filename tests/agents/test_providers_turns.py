"""A question with examples reaches every provider as a conversation, and its last turn is what is answered."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from batchmill.agents.providers import anthropic_rows, gemini_rows, mistral_rows, openai_rows
from batchmill.agents.simulator.openai.endpoints import ENDPOINTS
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.streams.ports import RemoteStatus
from batchmill.streams.rendering import request_form
from tests.agents.provider_worlds import KINDS, a_label, a_world, an_id

EXAMPLES = (
    '[{"input":{"text":"A dull play."},"output":{"label":"neg"}},'
    '{"input":{"text":"I laughed."},"output":{"label":"pos"}}]'
)
SCHEMA = (
    '{"type":"object","additionalProperties":false,"required":["label"],"properties":{"label":{"enum":["pos","neg"]}}}'
)
ASK = AskSpec(
    system="Classify.",
    user="{{ input.text }}",
    model=ModelSpec(provider="openai", name="m", params_json='{"max_output_tokens":50}'),
    output_schema_json=SCHEMA,
    examples_json=EXAMPLES,
    missing="Answer neg.",
)
BODY = request_form(ASK).body('{"text":"A good film."}')
SYSTEM = "Classify.\n\nWhen the input does not say what is asked for: Answer neg."
TURNS = [
    ("user", "A dull play."), ("assistant", '{"label":"neg"}'),
    ("user", "I laughed."), ("assistant", '{"label":"pos"}'),
    ("user", "A good film."),
]  # fmt: skip


def spoken(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def test_openai_and_mistral_take_the_conversation_as_it_is() -> None:
    endpoint = "/v1/chat/completions"
    openai = orjson.loads(openai_rows.request_line(custom_id="c", endpoint=endpoint, body=BODY))
    mistral = orjson.loads(mistral_rows.request_line(custom_id="c", endpoint=endpoint, body=BODY))
    for line in (openai, mistral):
        assert spoken(line["body"]["messages"]) == [("system", SYSTEM), *TURNS]


def test_responses_take_the_turns_as_input_and_the_system_message_as_instructions() -> None:
    line = orjson.loads(openai_rows.request_line(custom_id="c", endpoint="/v1/responses", body=BODY))
    assert (line["body"]["instructions"], spoken(line["body"]["input"])) == (SYSTEM, TURNS)
    question = ENDPOINTS["/v1/responses"].question(line["body"])
    assert (question.text, question.chars) == ("A good film.", len(SYSTEM) + sum(len(text) for _, text in TURNS))


def test_anthropic_takes_the_system_message_beside_the_turns() -> None:
    params = orjson.loads(anthropic_rows.request_line(custom_id="c", body=BODY, output_tokens_default=9))["params"]
    assert (params["system"], spoken(params["messages"])) == (SYSTEM, TURNS)


def test_gemini_calls_the_assistant_model() -> None:
    request = orjson.loads(gemini_rows.request_line(custom_id="c", body=BODY))["request"]
    assert request["systemInstruction"] == {"parts": [{"text": SYSTEM}]}
    turns = [(turn["role"], turn["parts"][0]["text"]) for turn in request["contents"]]
    assert turns == [("model" if role == "assistant" else role, text) for role, text in TURNS]


@pytest.mark.parametrize("kind", KINDS)
async def test_examples_change_the_bill_and_not_what_is_asked(kind: str, tmp_path: Any) -> None:
    async with a_world(kind, tmp_path) as world:
        bodies = [BODY, request_form(replace(ASK, examples_json=None)).body('{"text":"A good film."}')]
        rest = {"model": world.kind.model}
        lines = [world.line(number, **(orjson.loads(body) | rest)) for number, body in enumerate(bodies)]
        made = await world.create(b"".join(lines), a_label(members=2))
        rows = await world.rows(await world.until(made.batch_id, RemoteStatus.ENDED))
        long, short = (next(row for row in rows if row.custom_id == an_id(number)) for number in (0, 1))
        assert long.output == short.output
        assert long.output in {'{"label":"pos"}', '{"label":"neg"}'}
        assert long.input_tokens > short.input_tokens
