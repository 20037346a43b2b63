"""From a request to the function that answers it, and every fault as JSON with its status.

Nothing here knows of Orthanc, nor of what the routes do.
"""

import base64
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from model.explained import explained
from plugin.plain_text import PlainText

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024
"""Bytes; every body we know is far smaller."""

MOST_BRACKETS = 100
"""Opened in a body; every body we know opens one.

For each, Python's reader of JSON calls itself, and a thread's stack may end, and all of Orthanc
with it, before Python has counted as many as it allows: on Orthanc's own threads at some 500.
"""

JSON = "application/json"

Role = Literal["none", "look", "ask", "administer"]
ROLES: tuple[Role, ...] = get_args(Role)
"""What somebody may do; each may also do what stands before it."""

IDENTIFIER = "[0-9A-Za-z-]+"
"""What stands for {…} in a path. No character that means something in an address."""

Identifier = Annotated[str, Field(pattern=f"^(?:{IDENTIFIER})?$")]
"""The same within a query; empty names nothing."""

Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$")]
"""Of a model or an organ. Databases refuse a zero within a text."""

Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Of a line in a table, as databases count."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person or program asks."""

    method: str
    path: str  # without the query
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    user: str = ""  # who asks, if that is certain
    role: Role = "administer"
    from_elsewhere: bool = False  # a browser sends it for a page of another site


@dataclass(frozen=True, kw_only=True)
class Response:
    """What they get: JSON, or a text of another type."""

    status: int
    content: JsonValue
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """What is sent."""
        if self.content_type == JSON:
            return json.dumps(self.content, indent=2) + "\n"
        return str(self.content)


@dataclass(frozen=True)
class Route:
    """One row of the table: an address, and the function that answers there.

    The function's signature says what goes in and out: its arguments are names in the path, `body`,
    `query`, `user` and `role`, as far as it has them.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    function: Callable[..., BaseModel]
    _: KW_ONLY
    status: int = 200
    content_type: str = JSON  # if it is another, the answer is one text
    role: Role | None = None  # needed for it; None: look to GET, ask to POST
    errors: tuple[int, ...] = ()  # beside those of any request like it

    @cached_property
    def signature(self) -> dict[str, Any]:
        """Types of the function's arguments by name, and of its answer as "return"."""
        return get_type_hints(self.function)

    def allows(self, role: Role) -> bool:
        """Whether somebody in this role may do it."""
        needed = self.role or ("look" if self.method == "GET" else "ask")
        return ROLES.index(role) >= ROLES.index(needed)

    def match(self, path: str) -> dict[str, str] | None:
        """The values of the names in the path, if this is the route of it."""
        pattern = re.sub(r"\\\{(\w+)\\\}", rf"(?P<\1>{IDENTIFIER})", re.escape(self.path))
        found = re.fullmatch(pattern, path)
        return found.groupdict() if found else None


class BadRequest(Exception):
    """The request itself is wrong. The message is a sentence for who sent it."""


class Message(BaseModel):
    """What is asked or answered; nothing but what is declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Message):
    """Every answer that is not what was asked for."""

    error: Annotated[PlainText, Field(description="a sentence for a person")]


class Router:
    """Answers requests after one table of routes."""

    def __init__(
        self, routes: Sequence[Route], *, faults: Sequence[tuple[type[Exception], int]]
    ) -> None:
        """
        Args:
            routes: addresses and what answers there.
            faults: which exceptions of the functions have which status; the first that fits.
        """
        self._routes = routes
        self._status_of: list[tuple[type[Exception], int]] = [(BadRequest, 400), *faults]
        self._faults = tuple(kind for kind, _ in self._status_of)

    def __call__(self, request: Request) -> Response:
        """Answer; every fault that we know of is a sentence with the right status."""
        path = request.path.rstrip("/")
        here = [
            (route, names) for route in self._routes if (names := route.match(path)) is not None
        ]
        if not here:
            return _problem(404, f"There is nothing at {path}; see /oar/openapi.json.")
        for route, names in here:
            if route.method == request.method:
                if not route.allows(request.role):
                    return _problem(403, "Your role does not allow this; see Roles in SECURITY.md.")
                if route.method != "GET" and request.from_elsewhere:
                    return _problem(403, "A page of another site may not ask for this.")
                return self._answer(route, names, request)
        allowed = ", ".join(route.method for route, _ in here)
        sentence = f"{path} takes {allowed}, not {request.method}."
        return _problem(405, sentence, {"Allow": allowed})

    def _answer(self, route: Route, names: dict[str, str], request: Request) -> Response:
        who = {"user": request.user, "role": request.role}
        asked = {name: who[name] for name in who.keys() & route.signature.keys()}
        arguments: dict[str, Any] = names | asked
        try:
            if (body := route.signature.get("body")) is not None:
                arguments["body"] = _read_body(request.body, body)
            if (query := route.signature.get("query")) is not None:
                arguments["query"] = _validate(_named(request.query, query), query)
            answer = route.function(**arguments)
        except self._faults as why:
            status = next(status for kind, status in self._status_of if isinstance(why, kind))
            if status >= 500:
                log.warning("%s %s: %s", request.method, request.path, why)
            return _problem(status, str(why.args[0]))
        except SQLAlchemyError:
            log.exception("%s %s", request.method, request.path)
            return _problem(503, "The queue of jobs does not answer; Orthanc's log says why.")
        content = answer.model_dump(mode="json")
        return Response(status=route.status, content=content, content_type=route.content_type)


def user_of(headers: Mapping[str, str]) -> str:
    """Who asks, from the headers of a request that Orthanc has authenticated; or empty."""
    kind, _, credentials = headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials).decode().partition(":")[0]
    except ValueError:  # not base64, or not text
        return ""


def from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this for a page of another site, with its user's password.

    Args:
        headers: with names in lower case.
    """
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    # Browsers leave that header out where there is no TLS; this one they send with every POST.
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _read_body(body: bytes, kind: type[BaseModel]) -> BaseModel:
    if len(body) > LARGEST_BODY:
        raise BadRequest(f"The body has {len(body)} bytes, more than {LARGEST_BODY}.")
    if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
        raise BadRequest(f"The body opens more than {MOST_BRACKETS} brackets.")
    if not body.strip():
        return kind()
    try:
        values = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from error
    return _validate(values, kind)


def _named(query: Mapping[str, str], kind: type[BaseModel]) -> dict[str, str]:
    """A query without the empty fields of a form, which ask for nothing."""
    known = kind.model_fields
    return {name: value for name, value in query.items() if value or name not in known}


def _validate(values: Any, kind: type[BaseModel]) -> BaseModel:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadRequest(f"Cannot understand the request: {explained(error)}.") from error


def _problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    content = Problem(error=sentence).model_dump(mode="json")
    return Response(status=status, content=content, headers=headers or {})
