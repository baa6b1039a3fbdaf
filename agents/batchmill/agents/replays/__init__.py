"""Replays, as people and the clock ask for them: which raw events, what it takes, and telling the tasks.

What lives here: everything in front of the `rerun` command. What must not: what a task does about it
(`streams.rerunning`), and any word to people (`cli.replay`).
"""
