"""Settings as people read them: what is in force and who said so, and the reference page.

What lives here: text made from `settings.Settings`. What must not: a second list of settings, or a secret in clear.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from batchmill.agents.settings import (
    STANDARD_VARIABLES,
    AccountSettings,
    ApiSettings,
    DatabaseSettings,
    Settings,
    env_name,
    origins,
)

__all__ = ["ShownSetting", "settings_reference", "shown_settings"]

MASK = "********"
#: groups of which there are several, by name: an example's name, and what one of them is
_NAMED: dict[str, tuple[str, type[BaseModel]]] = {
    "accounts": ("openai", AccountSettings),
    "databases": ("shop", DatabaseSettings),
    "apis": ("stock", ApiSettings),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSetting:
    """One line of `config show --sources`."""

    name: str  #: dotted
    value: str  #: secrets masked
    source: str  #: flag | env NAME | file PATH | default
    description: str


def shown_settings(settings: Settings, flags: Mapping[str, Any] | None = None) -> list[ShownSetting]:
    """List every setting in force, in the order they are declared; pass the flags `settings` was loaded with."""
    said = origins(flags)
    return [
        ShownSetting(
            name=name,
            value=_text(value),
            source=said.get(name, "default"),
            description=field.description or "",
        )
        for name, field, value in _walk(settings)
    ]


def settings_reference() -> str:
    """Write the reference page: one table per group, straight from the declarations."""
    standard = {path: name for name, path in STANDARD_VARIABLES.items()}
    parts = [_table("General", "", Settings, standard)]
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if name in _NAMED:
            example, named = _NAMED[name]
            parts.append(_table(name.capitalize(), f"{name}.{example}.", named, standard))
        elif isinstance(group, type) and issubclass(group, BaseModel):
            parts.append(_table(name.capitalize(), f"{name}.", group, standard))
    return "\n".join(parts)


def _walk(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, member in value.items():
                if isinstance(member, BaseModel):
                    yield from _walk(member, f"{prefix}{name}.{key}.")
                else:
                    yield f"{prefix}{name}.{key}", field, member
        else:
            yield f"{prefix}{name}", field, value


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return MASK
    return "" if value is None else str(value)


def _table(title: str, prefix: str, group: type[BaseModel], standard: Mapping[str, str]) -> str:
    head = (group.__doc__ or "").strip() if prefix else "Of the installation as a whole."
    lines = [f"## {title}", "", head, "", "| setting | default | meaning | variable |", "|---|---|---|---|"]
    for name, field in group.model_fields.items():
        if _is_group(field):
            continue
        path = prefix + name
        variables = [f"`{v}`" for v in (standard.get(path), env_name(path)) if v]
        default = "" if field.default in {None, PydanticUndefined} else f"`{field.default}`"
        lines.append(f"| `{path}` | {default} | {field.description}{_choices(field)} | {', '.join(variables)} |")
    return "\n".join([*lines, ""])


def _is_group(field: FieldInfo) -> bool:
    kind = field.annotation
    kind = get_args(kind)[1] if get_origin(kind) is dict else kind
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _choices(field: FieldInfo) -> str:
    options = [str(option) for option in get_args(field.annotation) if isinstance(option, str)]
    return f" One of {', '.join(f'`{o}`' for o in options)}." if options else ""
