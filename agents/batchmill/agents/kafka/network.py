"""The loopback, before a Kafka client can be used: free ports, and whether a broker answers there.

What must not: any address but the loopback's.
"""

import secrets
import socket
import struct

from batchmill.agents.kafka.errors import KafkaStartError
from batchmill.agents.kafka.properties import HOST

__all__ = ["answers", "free_ports", "is_free"]

#: Below the range the kernel hands out to outgoing connections: a client that retries a dead broker's port from inside
#: that range can connect to itself, and then the broker cannot come back.
PORTS = range(20_000, 32_000)
TRIES_MAX = 500
_API_VERSIONS = 18
_CORRELATION = 4


def free_ports(count: int) -> tuple[int, ...]:
    """Find ports nobody listens on, from a random place on, so that two test runs rarely look at the same ones."""
    found: list[int] = []
    for _ in range(TRIES_MAX):
        port = PORTS[secrets.randbelow(len(PORTS))]
        if port not in found and is_free(port):
            found.append(port)
        if len(found) == count:
            return tuple(found)
    raise KafkaStartError(f"no {count} free ports between {PORTS.start} and {PORTS.stop} on {HOST}; close something")


def answers(port: int, *, timeout_seconds: float = 2.0) -> bool:
    """Ask the broker which requests it speaks; it answers once it has joined its cluster and serves clients."""
    header = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION, -1)
    try:
        with socket.create_connection((HOST, port), timeout=timeout_seconds) as connection:
            connection.sendall(struct.pack(">i", len(header)) + header)
            reply = connection.recv(8, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(reply) == 8 and struct.unpack(">ii", reply)[1] == _CORRELATION


def is_free(port: int) -> bool:
    """Does nobody listen there? Closed connections that linger (TIME_WAIT) do not count; Java ignores them too."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
