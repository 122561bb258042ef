"""`bin/predict --live`: a local page that shows the emotions of the faces in a webcam.

Only this machine reaches it, under an address with a random token. Host and Origin are
checked, so that no other page in the browser can use it. Pictures are kept nowhere.
"""

import io
import secrets
import socket
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from fer_jax.data.sources.image_files import MAX_PIXELS, upright
from fer_jax.errors import UserError
from fer_jax.inference.results import Faces

MAX_BYTES = 20_000_000  # of a picture
_PAGE = Path(__file__).parent / "page"
_TYPES = {"": "text/html", "live.js": "text/javascript", "live.css": "text/css"}
_NAMES = ("127.0.0.1", "localhost")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src "
    "'self'; img-src blob:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Detect = Callable[[Image.Image], Faces]


def make_app(detect: Detect, token: str, min_confidence: float = 0.0) -> Any:
    """The web application, as ASGI.

    Args:
      detect: finds the faces in an RGB picture; called from threads.
      token: the first part of every path.
      min_confidence: below it, a face is "unsure".

    Raises:
      UserError: if the packages of the extra `live` are missing.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise UserError(
            "--live needs the packages starlette and uvicorn: pip install "
            "'fer_jax[live]'"
        ) from None

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "")
        if name not in _TYPES:
            return Response("not found", 404)
        file = _PAGE / (name or "live.html")
        return Response(file.read_text("utf-8"), media_type=_TYPES[name])

    async def faces(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BYTES:
                limit = f"{MAX_BYTES / 1e6:.0f} MB"
                return JSONResponse({"error": f"larger than {limit}"}, 413)
        started = time.monotonic()
        try:
            picture = await run_in_threadpool(_decode, bytes(body))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        found = await run_in_threadpool(detect, picture)
        rows = [each.row(min_confidence) for each in found]
        milliseconds = 1000 * (time.monotonic() - started)
        return JSONResponse(
            {"faces": rows, "size": picture.size, "ms": round(milliseconds, 1)}
        )

    async def guard(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        given = request.url.path.split("/")[1]
        if not _is_local(request.headers.get("host", "")):
            response = Response("wrong host", 403)
        elif not secrets.compare_digest(given.encode(), token.encode()):
            response = Response("wrong token", 403)
        elif request.method == "POST" and not _same_origin(request.headers):
            response = Response("wrong origin", 403)
        else:
            response = await proceed(request)
        response.headers.update(_HEADERS)
        return response

    app = Starlette(
        routes=[
            Route("/{token}/", page),
            Route("/{token}/faces", faces, methods=["POST"]),
            Route("/{token}/{name}", page),
        ]
    )
    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)
    return app


def serve(detect: Detect, console: Console, port: int, min_confidence: float) -> None:
    """Serves the page on 127.0.0.1 until Ctrl-C.

    Args:
      detect: as `make_app` takes it.
      console: where the address is printed.
      port: 0 for any free one.
      min_confidence: as `make_app` takes it.

    Raises:
      UserError: if the port is taken, or packages are missing.
    """
    token = secrets.token_urlsafe(16)
    app = make_app(detect, token, min_confidence)
    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_NAMES[0], port))
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used ({error.strerror}); name another with --port"
        ) from None
    port = listener.getsockname()[1]
    detect(Image.new("RGB", (64, 64)))  # compile before the first picture
    console.print(
        f"open http://{_NAMES[0]}:{port}/{token}/ in a browser of this machine"
    )
    console.print(
        f"from another machine: ssh -L {port}:{_NAMES[0]}:{port} this_machine, and "
        "open the same address there"
    )
    console.print("pictures are kept nowhere; Ctrl-C ends it")
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def _decode(raw: bytes) -> Image.Image:
    """The picture in the bytes, upright; a ValueError says what is wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG", "WEBP")) as image:
                if image.width * image.height <= MAX_PIXELS:
                    return upright(image, "RGB")
    except Exception:  # Pillow's decoders raise a dozen kinds on bad bytes
        raise ValueError("not a jpg, png or webp that can be read") from None
    raise ValueError(f"more than {MAX_PIXELS:,} pixels")


def _is_local(host: str) -> bool:
    name, _, port = host.partition(":")
    return name in _NAMES and (not port or port.isdecimal())


def _same_origin(headers: Any) -> bool:
    return headers.get("origin", "") == f"http://{headers.get('host', '')}"
