"""Law: a provider that can be trusted to misbehave: batch APIs over HTTP, seeded answers and faults, a ledger of all.

It is a product of its own: it knows nothing of the pipeline under test, and the pipeline nothing of it but its URL.
"""

from batchmill.agents.simulator.app import create_app
from batchmill.agents.simulator.config import SimulatorConfig, config_from_json, config_to_json
from batchmill.agents.simulator.faults import FAULTS, Fault, FaultPlan, FaultRule, parse_fault, plan_from_json
from batchmill.agents.simulator.ledger import Bill, Ledger, ledger_lines, read_ledger
from batchmill.agents.simulator.limits import EVERY_MODEL, Limits, QueueRoom, Rate, limits_from_json
from batchmill.agents.simulator.pricing import Price
from batchmill.agents.simulator.server import RunningSimulator, running_simulator, serve, start_simulator

__all__ = [
    "EVERY_MODEL",
    "FAULTS",
    "Bill",
    "Fault",
    "FaultPlan",
    "FaultRule",
    "Ledger",
    "Limits",
    "Price",
    "QueueRoom",
    "Rate",
    "RunningSimulator",
    "SimulatorConfig",
    "config_from_json",
    "config_to_json",
    "create_app",
    "ledger_lines",
    "limits_from_json",
    "parse_fault",
    "plan_from_json",
    "read_ledger",
    "running_simulator",
    "serve",
    "start_simulator",
]
