"""Every command a page names exists, with those options; what stands in a shell block is complete.

The command line itself parses them: nothing is run.
"""

import re
import shlex
from typing import Any

import pytest
import typer

from batchmill.agents.cli.program import program
from tests.docs.pages import GUIDES, blocks, inline_code, text_of

#: what may stand before the command's name
_NAMES = ("batchmill", ".venv/bin/batchmill")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=\S*")
_ENDS = frozenset({"|", "&", "&&", ";", ">", "<"})


class UnknownCommandError(Exception):
    """No such command."""


def _words(line: str) -> list[str] | None:
    """The arguments of the batchmill command on a line, None when there is none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] == "-"):
        words.pop(0)
    for end in [at for at, word in enumerate(words) if word in _ENDS]:
        if words[:end] and words[0] in _NAMES:
            words = words[:end]
            break
        if end + 1 < len(words) and words[end + 1] in _NAMES:
            return words[end + 2 :]
    return words[1:] if words and words[0] in _NAMES else None


def _in_blocks(page: str) -> list[tuple[str, list[str]]]:
    text = "\n".join(block.text for block in blocks(page) if block.language in {"", "sh"})
    lines = text.replace("\\\n", " ").splitlines()
    told = [(line, _words(line)) for line in lines if "batchmill" in line and not line.lstrip().startswith(("#", "<"))]
    return [(line, words) for line, words in told if words is not None]


def _in_line(page: str) -> list[tuple[str, list[str]]]:
    told = [(code, _words(code)) for code in inline_code(page) if code.startswith(_NAMES)]
    return [(code, words) for code, words in told if words]


def _parse(words: list[str]) -> None:
    """Raise what the command line would say; paths and names are not looked up."""
    command: Any = typer.main.get_command(program())
    context, name, rest = None, "batchmill", list(words)
    while hasattr(command, "commands"):
        context = command.make_context(name, rest, parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest and command.invoke_without_command:
            return
        name = rest.pop(0)
        if name not in command.commands:
            raise UnknownCommandError(f"{' '.join(words)}: no {name} in {', '.join(command.commands)}")
        command = command.commands[name]
    command.make_context(name, rest, parent=context)


def _fault(words: list[str], *, mention: bool) -> str | None:
    try:
        _parse(words)
    except UnknownCommandError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - typer raises its own copy of click's errors
        kinds = {kind.__name__ for kind in type(error).__mro__}
        # In a sentence a command may stand without its arguments, a group for all of its commands.
        if mention and kinds & {"MissingParameter", "NoArgsIsHelpError", "Exit"}:
            return None
        return f"{' '.join(words)}: {error}"
    return None


@pytest.mark.parametrize("page", GUIDES)
def test_commands_in_blocks_are_whole_and_right(page: str):
    assert [fault for _, words in _in_blocks(page) if (fault := _fault(words, mention=False))] == []


@pytest.mark.parametrize("page", GUIDES)
def test_commands_in_sentences_exist_with_their_options(page: str):
    assert [fault for _, words in _in_line(page) if (fault := _fault(words, mention=True))] == []


def test_the_examples_of_help_are_right():
    examples = re.findall(r"^ +(?:\S+=\S+ |[^\n`]*\| )*batchmill [^\n`]*$", _cli_page(), re.MULTILINE)
    parsed = [words for line in examples if (words := _words(line.strip()))]
    assert len(parsed) > 20
    assert [fault for words in parsed if (fault := _fault(words, mention=False))] == []


def _cli_page() -> str:
    return text_of("docs/reference/cli.md")


def test_the_pages_do_name_commands():
    assert len(_in_blocks("docs/operations.md")) > 10
    assert len(_in_blocks("README.md")) >= 4
    assert len(_in_line("README.md")) >= 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["topics", "apply", "--execute"], "No such option"),
        (["topics", "aply"], "no aply in"),
        (["explain"], "Missing parameter"),
    ],
)
def test_a_wrong_command_would_be_told(words: list[str], said: str):
    assert said in str(_fault(words, mention=False))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("batchmill status | head", ["status"]),
        ("zcat x.gz | batchmill ingest - --job j", ["ingest", "-", "--job", "j"]),
        ("OPENAI_API_KEY=any batchmill up  # a comment", ["up"]),
        ('make kafka ARGS="--port 9092" &', None),
        (".venv/bin/batchmill topics verify && batchmill up", ["topics", "verify"]),
    ],
)
def test_a_command_is_found_in_its_line(line: str, words: list[str] | None):
    assert _words(line) == words
