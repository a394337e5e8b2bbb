"""What a server's certificate is checked against: the system's list, or that of SSL_CERT_FILE."""

import ssl
from pathlib import Path

import grpc


def context() -> ssl.SSLContext:
    """For HTTP. A server must prove its name."""
    return ssl.create_default_context()


def credentials() -> grpc.ChannelCredentials:
    """The same for gRPC, which by itself knows its own list only."""
    file = ssl.get_default_verify_paths().cafile
    return grpc.ssl_channel_credentials(Path(file).read_bytes() if file else None)
