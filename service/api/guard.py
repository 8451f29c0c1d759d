"""What stands around every endpoint: it refuses what may not be read, and answers where an endpoint failed."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.admission import Admission, Headers, body_limit
from service.api.problems import Problems, problem_response


class Guard:
    """The one middleware, around everything, in plain ASGI: admission, request id, last resort.

    A body that is compressed, not JSON or too large is refused before it is read; one whose size is not announced
    is cut off while it is read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        problems: Problems,
        direct: Mapping[tuple[str, str], ASGIApp] | None = None,
    ) -> None:
        """Stand around an app.

        Args:
            app: everything behind.
            admission: who and what may pass.
            problems: words what goes wrong.
            direct: by method and path, endpoints that need nothing of the app's own middleware and routing, which
                would cost them 20 µs. They are for bodies of announced size.
        """
        self._app = app
        self._admission = admission
        self._problems = problems
        self._direct = direct or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let an HTTP request through to the app, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = self._admission.request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        identity = (b"x-request-id", request_id.encode())
        started = False

        async def send_identified(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], identity]
            await send(message)

        refusal = self._admission.refusal(scope["path"], headers)
        if refusal is not None:
            problem = self._problems.problem(refusal, request_id=request_id)
            await problem_response(problem)(scope, receive, send_identified)
            return  # the server discards what still comes of the body, so that the client can read this
        endpoint = self._direct.get((scope["method"], scope["path"])) if b"content-length" in headers else None
        try:
            if endpoint is not None:
                await endpoint(scope, receive, send_identified)
            else:
                await self._app(scope, _bounded(scope["path"], headers, receive), send_identified)
        except ClientDisconnect:
            return  # nobody is there to answer
        except Exception as error:
            if started:
                raise  # too late for a problem: the server cuts the connection
            problem = self._problems.raised(error, path=scope["path"], request_id=request_id)
            await problem_response(problem)(scope, receive, send_identified)


def _bounded(path: str, headers: Headers, receive: Receive) -> Receive:
    """The same body, cut off at the limit; an announced length is enforced by the HTTP parser already."""
    if b"transfer-encoding" not in headers:
        return receive
    limit, taken = body_limit(path), 0

    async def receive_bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413)
        return message

    return receive_bounded
