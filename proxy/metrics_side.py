"""The proxy's side of metrics: the server's page, the supervisor's and the proxy's own."""

import asyncio
import contextlib

import aiohttp
from aiohttp import web

from proxy import http_side
from proxy.account import http_log
from proxy.inference import Proxy


def metrics_runner(proxy: Proxy) -> web.ServerRunner:
    """Answer on the metrics port."""

    async def page(request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "GET" or request.path != "/metrics":
            return web.Response(status=404, text="there is /metrics only\n")
        pages, ready = [], False
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
            pages.append(await proxy.server.metrics())
            ready = not await proxy.server.ready()
        if proxy.settings.state is not None:
            with contextlib.suppress(OSError):
                pages.append(await asyncio.to_thread(proxy.settings.state.read_bytes))
        pages.append(proxy.metrics.page(proxy.load, ready))
        body = b"".join(each.rstrip(b"\n") + b"\n" for each in pages)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    return web.ServerRunner(
        web.Server(page, access_log=None, keepalive_timeout=http_side.IDLE_S, logger=http_log)
    )
