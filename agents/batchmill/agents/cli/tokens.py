"""`batchmill tokens`: who may use the pages and the API."""

from typing import TYPE_CHECKING, Annotated

import typer

from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.desk.model import Role

if TYPE_CHECKING:
    from batchmill.agents.web.tokens import Token, TokenFile

__all__ = ["add"]

NAME = typer.Argument(help="Who it is for; written on every decision made with it.")


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Say who may use the pages and the API.")
    group.command("create")(create)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(group, name="tokens")


def create(
    context: typer.Context,
    name: Annotated[str, NAME],
    role: Annotated[Role, typer.Option(help="viewer looks, reviewer decides, operator also reverts and redrives.")],
    days: Annotated[int | None, typer.Option(help="It ends after so many days; default: it does not.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Make a token and print it, once: only its hash is kept. With the first one, everybody needs one.

    \b
    Example:
      batchmill tokens create ada --role reviewer --days 90
    """
    here = door(context)
    given = _file(here).create(name, role, days=days)
    if json:
        here.emit("tokens.create", {"name": name, "role": role.value, "token": given})
        return
    typer.echo(given)
    here.say(f"{name} is {role} with this token; it is not shown again")


def list_(context: typer.Context, json: Annotated[bool, JSON] = False) -> None:
    """List tokens by name; none of them can be shown again.

    \b
    Example:
      batchmill tokens list
    """
    here = door(context)
    found = _file(here).tokens()
    if json:
        here.emit("tokens.list", [_shown(each) for each in found])
        return
    columns = ("name", "role", "created", "expires", "revoked")
    rows = [
        [each.name, each.role, utc(each.created_at_ms), utc(each.expires_at_ms), utc(each.revoked_at_ms)]
        for each in found
    ]
    here.table(columns, rows, empty="no tokens: whoever sits at this machine is an operator, nobody else comes in")


def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose token ends; see `tokens list`.")],
) -> None:
    """End a token with the next request made with it.

    \b
    Example:
      batchmill tokens revoke ada
    """
    here = door(context)
    if not _file(here).revoke(name):
        raise CommandError(f"{name} has no token that holds; see `batchmill tokens list`", ExitCode.NOT_FOUND)
    here.say(f"the token of {name} is no good any more")


def _file(here: Door) -> "TokenFile":
    from batchmill.agents.web.serving import token_file

    return token_file(here.settings)


def _shown(token: "Token") -> dict[str, object]:
    return {
        "name": token.name,
        "role": token.role.value,
        "created_at_ms": token.created_at_ms,
        "expires_at_ms": token.expires_at_ms,
        "revoked_at_ms": token.revoked_at_ms,
    }
