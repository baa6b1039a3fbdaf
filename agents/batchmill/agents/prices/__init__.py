"""Where prices come from: a file of one's own, LiteLLM's list, or the list that genai-prices brings along.

Nothing is ever fetched. `load_prices` picks the source once per process; `freeze` takes a job's prices out of it when
the job is applied, and from then on the job is costed by those (`JobSpec.prices_json`), whatever becomes of the list.
What a price means is `streams.costing`.
"""

from batchmill.agents.prices.sources import PriceSource, freeze, load_prices, prices_for, with_prices

__all__ = ["PriceSource", "freeze", "load_prices", "prices_for", "with_prices"]
