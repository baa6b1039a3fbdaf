"""`python -m batchmill.agents.cli`: the same command without a script on the path; child processes are started so."""

from batchmill.agents.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
