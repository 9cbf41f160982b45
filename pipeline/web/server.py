"""Serves the page on a port of this machine, until it is told to stop."""

import socket
from typing import Any

from pipeline.errors import UserError
from pipeline.web.html import STYLE
from pipeline.web.page import import_gradio

SECONDS_TO_END = 1  # an open page holds a connection, and would be waited for


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Name or address of this machine.
        port: 0 takes a free one.

    Raises:
        UserError: If the address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot be served on ({reason}); choose another port.") from error


def url_of(listening: socket.socket) -> str:
    """Return where a browser finds the page."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(page: Any, listening: socket.socket) -> None:
    """Serve until Ctrl-C, which is raised again then."""
    gradio = import_gradio()
    import uvicorn
    from fastapi import FastAPI

    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,  # or the browser would keep every question
        max_file_size=1,  # there is nothing to upload
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=_theme(gradio),
        css=STYLE,
    )
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END)
    uvicorn.Server(config).run(sockets=[listening])


def _theme(gradio: Any) -> Any:
    """Return a theme that takes the system's fonts, and whose button can be read by everybody."""
    theme = gradio.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
    )
    return theme.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")
