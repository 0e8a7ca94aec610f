"""The sending of one answer, which knows whether it has begun: from then on no other answer can be given."""

from starlette.types import Message, Send


class NotedSend:
    """An ASGI ``send`` that notes its first message."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        self.has_begun = True
        await self._send(message)
