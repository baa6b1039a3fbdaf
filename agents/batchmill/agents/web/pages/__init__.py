"""The pages of the review desk: server-made HTML that works without a script and better with one.

What lives here: forms from JSON Schema, marked sources, templates, styles, the routes that answer browsers. What must
not: who may do what and the desk itself (beside it and below it), decisions. Whatever an input, an answer or a reviewer
wrote is hostile: templates escape always, unseen characters are named, nothing becomes a link.
"""

__all__: list[str] = []
