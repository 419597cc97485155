"""The page at `/`: photos in, their likeliest classes out, by the server's own endpoints. Nothing comes from elsewhere.

What it shows is written in `page/page.js`; here its files get their headers. They are few and small, and read once.
"""

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imagesprint.serving.service import Service

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

# Whatever the name of a class or of a photo holds, the page runs this server's script alone and speaks with it alone.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer version of the server has a newer page
}


def routes(_: Service) -> list[Route]:
    """The page and what it loads; what it shows of the service, it asks the other endpoints for."""
    return [_route(path, name, kind) for path, (name, kind) in _FILES.items()]


def _route(path: str, name: str, kind: str) -> Route:
    content = (files(__package__) / "page" / name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return Route(path, page, include_in_schema=False)
