"""A gRPC channel that can be made anew: after a fork, and after its connection has failed."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from voicereel.errors import ConfigurationError
from voicereel.transport import tls
from voicereel.transport.address import Address
from voicereel.transport.base import MAX_RESPONSE_BYTES

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),  # the default is 24 s of audio
    # No compression: a few kilobytes may hold gigabytes, and speech hardly shrinks.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel shares a connection that failed
    ("grpc.min_reconnect_backoff_ms", 5000),  # time to connect; the default is 20 s
    ("grpc.max_reconnect_backoff_ms", 2000),  # the default of 2 min outlasts a server's start
]


class _Forks:
    """What a fork may do to gRPC in this process.

    gRPC survives a fork only if no thread is inside one of its calls in that moment; else its locks
    stay taken in the child, where calls then hang.

    Attributes:
        in_flight: Calls of this process that a thread waits for.
        broken: Whether this process was forked during such a call.
    """

    def __init__(self) -> None:
        self.lock, self.in_flight, self.broken = threading.Lock(), 0, False
        self.inherited: list[Any] = []  # channels of the parent; closing one here could hang
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after)

    def after(self) -> None:
        self.broken = self.broken or self.in_flight > 0
        self.lock, self.in_flight = threading.Lock(), 0


_forks = _Forks()


class Channel:
    """The connection to one server; may be shared by threads, and used on after a fork."""

    def __init__(self, address: Address) -> None:
        self._address, self._lock = address, threading.Lock()
        # A proxy of the environment is for servers elsewhere.
        self._options: list[tuple[str, int | str]] = [*_OPTIONS]
        if address.is_loopback:
            self._options.append(("grpc.enable_http_proxy", 0))
        if address.name:
            self._options.append(("grpc.default_authority", f"{address.name}:{address.port}"))
            self._options.append(("grpc.ssl_target_name_override", address.name))
        self._connect()

    def _connect(self) -> None:
        self._pid = os.getpid()
        address, options = str(self._address), self._options
        if self._address.is_secure:
            self._channel = grpc.secure_channel(address, tls.credentials(), options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    @property
    def is_inherited(self) -> bool:
        """Whether it was made before this process was forked, and not used since."""
        return self._pid != os.getpid()

    def stub(self) -> Any:
        """The generated stub, for one call.

        Raises:
            ConfigurationError: If gRPC cannot be used because this process was forked in mid-call.
        """
        if _forks.broken:
            raise ConfigurationError(
                "this process was forked while its parent waited for a call, which gRPC does not "
                "survive. Fork when no call is in flight, start the process by spawn "
                '(multiprocessing.get_context("spawn")), or use protocol="http"'
            )
        if self.is_inherited:
            self._lock = threading.Lock()  # a thread of the parent may have held it
            _forks.inherited.append((self._channel, self._stub))
            self._connect()
        return self._stub

    def renew(self, stub: Any) -> None:
        """Connect anew, unless another thread has replaced this stub already.

        Calls in flight keep the old connection.
        """
        with self._lock:
            if stub is self._stub:
                self._connect()

    def close(self) -> None:
        if not self.is_inherited:
            self._channel.close()


@contextmanager
def in_flight() -> Iterator[None]:
    """Mark that this thread waits for a call, during which a fork breaks gRPC in the child."""
    with _forks.lock:
        _forks.in_flight += 1
    pid = os.getpid()
    try:
        yield
    finally:
        if pid == os.getpid():
            with _forks.lock:
                _forks.in_flight -= 1
