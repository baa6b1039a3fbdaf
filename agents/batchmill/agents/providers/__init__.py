"""Provider clients: one module per protocol, one small HTTP seam, one gate per account.

What lives here: speaking to a provider exactly once per call and telling what came of it. What must not: deciding what
to do next (that is `streams`), retrying anything, or remembering anything that a restart would need.
"""

__all__: list[str] = []
