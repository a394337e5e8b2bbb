"""Opens the ports, and closes them when what is in flight has ended."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from proxy.account import Metrics
from proxy.doors import Doors
from proxy.grpc_side import GrpcSide
from proxy.http_side import HttpSide
from proxy.inference import Proxy
from proxy.load import Load
from proxy.metrics_side import metrics_runner
from proxy.server import Server
from proxy.settings import Settings

_ENDING_S = 1.0  # seconds that last answers may take to leave
_POLL_S = 0.05


class Running:
    """A proxy whose ports are open.

    Attributes:
        proxy: What its requests share.
        ports: By use: http, grpc, metrics.
    """

    def __init__(self, proxy: Proxy, ports: dict[str, int]) -> None:
        self.proxy, self.ports = proxy, ports

    @property
    def ready_line(self) -> str:
        """What tells a parent process where the ports are."""
        return json.dumps({"ready": True, **self.ports})

    async def drain(self) -> bool:
        """Take nothing new, and wait for what is in flight; whether all of it ended."""
        self.proxy.server.closing = True
        for _ in range(int(self.proxy.settings.grace_s / _POLL_S)):
            if not self.proxy.load.in_flight:
                return True
            await asyncio.sleep(_POLL_S)
        return not self.proxy.load.in_flight


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A proxy, for as long as the context lasts.

    Raises:
        OSError: If a port is taken.
    """
    load = Load(settings.longest_wait_s)
    server = Server(settings, load)
    proxy = Proxy(settings, Doors(settings.opened, settings.key), load, server, Metrics())
    runners = {"http": HttpSide(proxy).runner(), "metrics": metrics_runner(proxy)}
    grpc_server = GrpcSide(proxy).server()
    try:
        ports = {}
        for use, port in (("http", settings.http_port), ("metrics", settings.metrics_port)):
            await runners[use].setup()
            await web.TCPSite(runners[use], settings.address.strip("[]"), port).start()
            ports[use] = runners[use].addresses[0][1]
        host = settings.address.strip("[]")
        host = f"[{host}]" if ":" in host else host
        try:
            ports["grpc"] = grpc_server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as error:
            raise OSError(f"gRPC port {settings.grpc_port} at {host}: {error}") from None
        await grpc_server.start()
        yield Running(proxy, {use: ports[use] for use in ("http", "grpc", "metrics")})
    finally:
        await grpc_server.stop(_ENDING_S)
        for runner in runners.values():
            await runner.cleanup()
        await server.close()


async def serve_until(
    settings: Settings, stop: asyncio.Event, on_open: Callable[[Running], None]
) -> bool:
    """Serve until `stop` is set; whether all that was in flight then ended.

    Args:
        settings: Of the operator.
        stop: Ends it.
        on_open: Called when the ports are open.
    """
    async with running(settings) as opened:
        on_open(opened)
        await stop.wait()
        return await opened.drain()


async def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT; whether all that was in flight then ended."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await serve_until(settings, stop, lambda opened: print(opened.ready_line, flush=True))
