"""The sockets that the server listens on. No torch, so that a port in use is reported at once."""

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from lora.errors import ServeError

BACKLOG: Final = 256
"""Connections that wait to be accepted."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the flag that says so."""

    host: str
    port: int
    flag: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bound(address: Address) -> socket.socket:
    """A socket that listens: whoever connects waits until the models are loaded. Raises `ServeError` if it cannot."""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if taken else f"cannot listen there ({error.strerror})"
        raise ServeError(f"{address}: {reason}; choose another with {address.flag}") from error


def where(listening: socket.socket) -> str:
    """The address as a client writes it."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_local(listening: socket.socket) -> bool:
    """Whether only this machine's programs reach it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
