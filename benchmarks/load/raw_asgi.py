"""The ceiling of ASGI: uvicorn with uvloop and httptools, and a constant answer as long as one of ours."""

import sys

import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

ANSWER = (
    b'{"transaction_id":"sim-1-000001000","decision_id":"d-4d2f4a8a5b0f1c6a7d9e8b31","decision":"approve",'
    b'"probability":0.00012345678901234567,"score":187,"reasons":[],"thresholds":{"version":0,"segment":"default"},'
    b'"model":{"name":"touchstone","version":"1.0.0","sha256":'
    b'"f3f8683683eed6c7e464bc2431729ac970208c8f727cab0fb4766ec40ec91b97"},"degraded":[],'
    b'"scored_at":"2025-01-01T08:24:02.408Z","latency_ms":0.432}'
)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Read the request, and answer."""
    assert scope["type"] == "http", scope
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": False})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
    )
