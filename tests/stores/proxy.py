"""A TCP proxy on loopback that fails on demand: it swallows replies, stalls, crawls, or cuts connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Stands between clients and one server.

    Attributes:
        port: where clients connect.
        swallowing: replies vanish from now on.
        open: what requests and replies must wait for.
        requests_per_s: how many bytes of them it passes on in a second; None: as many as come.
        connections: how many there were so far.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.swallowing = False
        self.open = asyncio.Event()
        self.open.set()
        self.requests_per_s: int | None = None
        self.connections = 0
        self._upstream_port = upstream_port
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """For the store."""
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until either side ends."""
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        pair = {writer, upstream_writer}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._pass_on(reader, upstream_writer, replies=False),
                self._pass_on(upstream_reader, writer, replies=True),
            )
        except ConnectionError:
            pass  # one side was cut, so the other is
        finally:
            self._writers -= pair
            for opened in pair:
                opened.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await reader.read(65536):
            await self.open.wait()
            if self.requests_per_s is not None and not replies:
                await asyncio.sleep(len(data) / self.requests_per_s)
                if reader.exception() is not None:
                    return  # who was cut off meanwhile has sent nothing
            if not (replies and self.swallowing):
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy(upstream_port: int) -> AsyncIterator[Proxy]:
    """A proxy in this event loop, in front of a server on loopback."""
    opened = Proxy(upstream_port)
    listening = await asyncio.start_server(opened.serve, "127.0.0.1", 0)
    opened.port = listening.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        listening.close()
        opened.open.set()
        opened.cut()
        await asyncio.sleep(0.01)  # for the connections to end
        await listening.wait_closed()
