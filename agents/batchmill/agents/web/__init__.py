"""The desk in a browser and for programs: pages, a JSON API, and who may use them.

`access` decides who is let in, `tokens` keeps who they are, `api` and `operating` answer programs, `app` puts it
together, `serving` runs it; `pages` is what people see. What a review is lives in `agents.desk`; nothing is decided
here.
"""

__all__: list[str] = []
