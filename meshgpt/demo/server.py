"""Serves the page to browsers on this machine, and sees to it that they ask nobody else for anything."""

import socket
import webbrowser
from collections.abc import Callable
from typing import Any, no_type_check

from meshgpt.demo.page import NOTHING, Page, load_gradio
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh.viewer import live_viewer_page

# A browser that is told this fetches nothing from elsewhere, whatever the page asks for.
POLICY = "; ".join(
    (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
        "base-uri 'self'",
        "form-action 'self'",
        "object-src 'none'",
    )
)


class Sealed:
    """An ASGI application whose answers carry `POLICY`."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, sealed if scope["type"] == "http" else send)


@no_type_check
def application(studio) -> Sealed:
    """The page of a `Studio` as an ASGI application, with the viewer at /viewer."""
    gradio = load_gradio()
    from fastapi import FastAPI  # pyright: ignore[reportMissingImports]
    from fastapi.responses import HTMLResponse  # pyright: ignore[reportMissingImports]

    app, page = FastAPI(openapi_url=None), Page(studio)
    viewer = live_viewer_page(NOTHING, "meshgpt")
    app.add_api_route("/viewer", lambda: HTMLResponse(viewer))
    off = {"run_history": False, "ssr_mode": False, "mcp_server": False, "pwa": False, "enable_monitoring": False}
    app = gradio.mount_gradio_app(
        app,
        page.blocks,
        path="",
        footer_links=[],
        show_error=False,
        max_file_size=ReadLimits().max_bytes,
        **off,
        **page.look,
    )
    return Sealed(app)


@no_type_check
def serve(studio, host="127.0.0.1", port=7860, open_browser=True, tell: Callable[[str], Any] = print) -> None:
    """Serves until Ctrl-C. port: 0 takes one that is free. Raises `OSError` where host and port cannot be had."""
    app = application(studio)
    import uvicorn  # pyright: ignore[reportMissingImports]

    with bound(host, port) as listener:
        address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else host}:{listener.getsockname()[1]}"
        tell(f"meshgpt demo: {address} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(address)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            tell("closed")


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises `OSError` with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return listener
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise OSError(f"{host}, port {port}: {why}; choose another with --port, 0 for any that is free") from error
