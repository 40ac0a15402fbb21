"""The connection to an agent: address, TLS, credentials and gRPC's channel options."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

# Answers are lists of findings. Requests have no limit in the client, because the agent has one.
_LARGEST_ANSWER_BYTES: Final = 64 * 2**20

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A 64-megapixel DICOM is over 128 MiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER_BYTES),
    # `hilum.client.retry` does the retries.
    ("grpc.enable_retries", 0),
    # Radiographs are sent to the box only, even if http_proxy is set.
    ("grpc.enable_http_proxy", 0),
    # Clients share neither connections nor back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # An agent restarts within seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings of the connection, with an optional client certificate.

    Attributes:
        ca: PEM file of the authority that signed the agent's certificate; None for the public
            authorities that come with gRPC.
        certificate: PEM file with the client's certificate (chain), for agents that ask for one.
        key: PEM file with its private key.
        server_name: the name in the agent's certificate, if it is not the address.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")


@dataclass(frozen=True, slots=True)
class Connection:
    """The checked settings of a channel."""

    address: str
    options: tuple[tuple[str, str | int], ...]
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def prepare(
        cls,
        address: str,
        tls: Tls | None,
        api_key: str | None,
        api_key_file: str | os.PathLike[str] | None,
    ) -> Connection:
        """Read the files, and refuse plain text beyond this machine.

        Raises:
            ValueError: plain text beyond this machine, or settings that contradict each other.
            OSError: a file cannot be read.
        """
        if not address:
            raise ValueError("the agent's address is missing, such as '127.0.0.1:50051'")
        if tls is None and not is_local(address):
            raise ValueError(
                f"{address} is beyond this machine: radiographs and API keys are sent "
                "there over TLS only. Give tls=Tls(ca=...)."
            )
        options: tuple[tuple[str, str | int], ...] = _OPTIONS
        if tls is not None and tls.server_name is not None:
            options = (*options, ("grpc.ssl_target_name_override", tls.server_name))
        key = _load_api_key(api_key, api_key_file)
        return cls(
            address=address,
            options=options,
            credentials=None if tls is None else _load_credentials(tls),
            metadata=() if key is None else (("authorization", f"Bearer {key}"),),
        )

    def open_channel(self) -> grpc.Channel:
        """Return a new channel for threads; it connects when first used."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, self.options)
        return grpc.secure_channel(self.address, self.credentials, self.options)

    def open_channel_async(self) -> grpc.aio.Channel:
        """Return a new channel for the running event loop; it connects when first used."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, self.options)
        return grpc.aio.secure_channel(self.address, self.credentials, self.options)


def is_local(address: str) -> bool:
    """Return True if a gRPC address is on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    # gRPC's own forms: 'host:port', 'dns:host:port', 'ipv4:...', 'ipv6:[...]:port'.
    rest = address.removeprefix("dns:///")
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        rest = rest.removeprefix(scheme)
    host = rest[1:].partition("]")[0] if rest.startswith("[") else rest.partition(":")[0]
    if "," in rest or "/" in rest:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load_credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read_file(tls.ca),
        private_key=_read_file(tls.key),
        certificate_chain=_read_file(tls.certificate),
    )


def _read_file(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _load_api_key(key: str | None, file: str | os.PathLike[str] | None) -> str | None:
    if key is not None and file is not None:
        raise ValueError("give api_key or api_key_file, not both")
    if file is not None:
        key = Path(file).read_text(encoding="utf-8").strip()
    if key is None:
        return None
    # gRPC metadata cannot hold other characters. The message never quotes the key.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the API key is empty or has characters that no key has")
    return key
