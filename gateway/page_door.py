"""The page at `/`: four files, without a build step and without anything from elsewhere."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from gateway.errors import ApiError

_FOLDER = Path(__file__).with_name("page")
_NAMES = ("index.html", "style.css", "app.js", "player.js")
_HEADERS = {
    # `data:` for the empty icon, `blob:` for the download.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def page(request: Request) -> Response:
    """`GET /`, `GET /page/{name}`."""
    name = request.path_params.get("name", "index.html")
    if name not in _NAMES:
        raise ApiError(404, f"there is no GET {request.url.path}")
    return FileResponse(_FOLDER / name, headers=_HEADERS)
