"""The web application: every route, and what lies around all of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import ASGIApp

from gateway import doors, fish, voice_doors
from gateway.errors import ApiError
from gateway.fish_live import tts_live
from gateway.gateway import Gateway
from gateway.guards import Guards
from gateway.live import live as live_text
from gateway.page_door import page
from gateway.scripts import scripts
from gateway.settings import Settings

_EXPOSED = ["X-Request-Id", "X-Sample-Rate", "X-Channels", "X-Bit-Depth", "X-Ignored-Fields"]


def create_app(settings: Settings, gateway: Gateway | None = None) -> ASGIApp:
    """The application, which connects to the servers with the first request."""
    gateway = gateway or Gateway(settings)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        gateway.close()

    # A router, not an application: that would answer errors in words of its own.
    guarded = Guards(Router(ROUTES, redirect_slashes=False, lifespan=lifespan), gateway)
    if not settings.allowed_origins:
        return guarded
    return CORSMiddleware(  # outermost, so that a page can read refusals too
        guarded,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
        expose_headers=_EXPOSED,
    )


async def live(_: Request) -> Response:
    """`GET /health/live`, `/health`: this process answers."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """`GET /health/ready`: some server takes requests."""
    if await anyio.to_thread.run_sync(request.state.gateway.servers.any_ready):
        return JSONResponse({"status": "ready"})
    raise ApiError(503, "no speech server is ready")


async def metrics(request: Request) -> Response:
    """`GET /metrics`, for Prometheus."""
    page, content_type = await anyio.to_thread.run_sync(request.state.gateway.metrics_page)
    return Response(page, headers={"Content-Type": content_type})


ROUTES = [
    Route("/", page),
    Route("/page/{name}", page),
    Route("/metrics", metrics),
    Route("/health", live),
    Route("/health/live", live),
    Route("/health/ready", ready),
    Route("/v1/models", doors.models),
    Route("/v1/models/{id}", doors.model),
    Route("/v1/audio/models", doors.audio_models),
    Route("/v1/audio/voices", voice_doors.listed),
    Route("/v1/audio/voices", voice_doors.add, methods=["POST"]),
    Route("/v1/audio/voices/{id}", voice_doors.show),
    Route("/v1/audio/voices/{id}", voice_doors.delete, methods=["DELETE"]),
    Route("/v1/audio/speech", doors.speech, methods=["POST"]),
    WebSocketRoute("/v1/audio/speech/stream", live_text),
    Route("/v1/tts", fish.tts, methods=["POST"]),
    WebSocketRoute("/v1/tts/live", tts_live),
    Route("/v1/references/add", fish.references_add, methods=["POST"]),
    Route("/v1/references/list", fish.references_list),
    Route("/v1/references/delete", fish.references_delete, methods=["DELETE"]),
    Route("/v1/references/update", fish.references_update, methods=["POST", "PUT"]),
    Route("/v1/audio/scripts", scripts, methods=["POST"]),
]
