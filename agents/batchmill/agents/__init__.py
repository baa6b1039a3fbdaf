"""Agents here are Faust stream processors, never LLM agents: they do what `streams` decided.

What lives here: everything that touches the world (Kafka, providers, clocks, files, people). What must not: deciding.
"""

__all__: list[str] = []
