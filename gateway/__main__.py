"""`python -m gateway`, `voicereel gateway`: the gateway in the foreground."""

import asyncio
import logging
import secrets
import sys
import time
from typing import Annotated

import typer
import uvicorn

from gateway.app import create_app
from gateway.connections import Connection, allow_connections
from gateway.gateway import Gateway
from gateway.guards import hash_of
from gateway.settings import Settings, read_settings
from voicereel import ConfigurationError

app = typer.Typer(invoke_without_command=True, help=__doc__)


@app.callback()
def main(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen at: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port: 8080; 0: any free one.")] = None,
    server: Annotated[
        list[str] | None, typer.Option(help="gRPC address of a tritonserver; may be repeated.")
    ] = None,
    aliases: Annotated[str | None, typer.Option(help="YAML file of aliases.")] = None,
) -> None:
    """Serve until SIGINT or SIGTERM. Everything else is set by VOICEREEL_GATEWAY_... variables."""
    if context.invoked_subcommand:
        return
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr, level=logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    servers = ",".join(server) if server else None
    try:
        settings = read_settings(
            host=host, port=port, servers=servers, VOICEREEL_GATEWAY_ALIASES=aliases
        )
        Server(settings).run()
    except ConfigurationError as error:
        print(f"gateway: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


@app.command()
def key() -> None:
    """Print a new key for an app, and the line for VOICEREEL_GATEWAY_KEYS_FILE."""
    made = f"vr-{secrets.token_urlsafe(32)}"
    print(f"key, for the app:     {made}\nhash, for KEYS_FILE:  {hash_of(made)}")


class Server(uvicorn.Server):
    """uvicorn, which says where it listens, and lets live text be spoken to its end."""

    def __init__(self, settings: Settings) -> None:
        self._gateway = Gateway(settings)
        Connection.most = allow_connections()
        super().__init__(
            uvicorn.Config(
                create_app(settings, self._gateway),
                settings.host,
                settings.port,
                http=Connection,
                access_log=False,
                log_config=None,
                server_header=False,
            )
        )

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                print(f"ready: http://{host}:{port}/v1", flush=True)

    async def shutdown(self, sockets: list | None = None) -> None:
        for server in self.servers:
            server.close()  # no new connection
        give_up = time.monotonic() + self._gateway.settings.drain_s
        # uvicorn itself waits for answers over HTTP, but cuts WebSockets off at once.
        while not (self._gateway.is_silent or self.force_exit or time.monotonic() > give_up):
            await asyncio.sleep(0.05)
        self.config.timeout_graceful_shutdown = max(1, int(give_up - time.monotonic()))
        await super().shutdown(sockets)


if __name__ == "__main__":
    app()
