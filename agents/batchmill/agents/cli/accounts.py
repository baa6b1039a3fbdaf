"""What a job needs of the accounts in the settings, and how a missing one is given: for `job` and `doctor`, no call."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.agents.settings import Settings
    from batchmill.schemas.asking import ModelSpec

__all__ = ["account_trouble", "key_hint"]


def account_trouble(settings: "Settings", model: "ModelSpec") -> tuple[str, str] | None:
    """What is wrong with the account of a job, and what to do; None: it is there and speaks as the job asks."""
    from batchmill.agents.providers.registry import DEFAULT
    from batchmill.agents.settings import env_name
    from batchmill.streams.capabilities import PROVIDERS

    name = model.account if model.account != DEFAULT or DEFAULT in settings.accounts else "openai"
    account = settings.accounts.get(name)
    if account is None:
        known = ", ".join(sorted(settings.accounts))
        kind = "" if name in PROVIDERS else f"{env_name(f'accounts.{name}.kind')}, and "
        hint = key_hint(name).replace("set ", f"set {kind}", 1)
        return f"no account {name} in the settings (known: {known}), so nothing would be sent", hint
    asked = PROVIDERS.get(model.provider)
    if asked is not None and PROVIDERS[account.kind].protocol != asked.protocol:
        what = f"account {name} is at {PROVIDERS[account.kind].title}, and the job asks {asked.title}"
        return what, "name another account (ask.model.account), or another provider"
    return None


def key_hint(account: str) -> str:
    """Where the key of an account is looked for: its standard variable, where it has one, or a file."""
    from batchmill.agents.settings import STANDARD_VARIABLES, env_name

    setting = f"accounts.{account}.api_key"
    standard = [variable for variable, path in STANDARD_VARIABLES.items() if path == setting]
    return f"set {' or '.join([*standard, env_name(f'{setting}_file')])}"
