"""An HTTP server that sends whatever bytes a test wants, at the pace it wants."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def rude(sends: Callable[[], Iterable[bytes]], heard: list[bytes] | None = None) -> Iterator[str]:
    """Serve; yields HOST:PORT.

    Args:
        sends: Gives the pieces of each answer, until the client has left.
        heard: Gets the beginning of each request.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(10)

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            request = connection.recv(2**20)
            if heard is not None:
                heard.append(request)
            for piece in sends():
                connection.sendall(piece)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def answer_of(body: bytes, header_length: int | None = None, **headers: str) -> bytes:
    """A whole answer of status 200."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    if header_length is not None:
        lines.append(f"Inference-Header-Content-Length: {header_length}")
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body
