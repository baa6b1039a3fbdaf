"""How a record may move: every decision of batchmill as a plain function over frozen values.

Facts in, orders out. Nothing here knows a clock, chance, a network, a file, the environment or Kafka; what a decision
needs of them is handed in. Who carries the orders out is `batchmill.agents`.

Flow of a record through the modules: `normalizing` -> `queueing` -> `sealing` -> `submitting` -> `collecting` ->
`validating` -> `committing`; beside it `retrying`, `reviewing`, `controlling`, `dead_lettering`. What a life may do at
all is `lifecycle`; the flow as a table is `topology`.
"""

__all__: list[str] = []
