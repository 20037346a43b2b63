"""The routes under /oar/queue: to pause it, and to resume it."""

from pydantic import Field

from plugin.jobs.pause import Pause
from plugin.web.router import Message, Route


class QueueState(Message):
    """Whether jobs are taken from the queue."""

    paused: bool = Field(description="no further job is taken; the running one goes on")


class PauseRoutes:
    """Pauses and resumes the queue."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause
        self.routes = (
            Route(
                "POST",
                "/oar/queue/pause",
                "Take no further job; the running one goes on",
                self.pause,
                role="administer",
            ),
            Route("POST", "/oar/queue/resume", "Take jobs again", self.resume, role="administer"),
        )

    def pause(self, user: str) -> QueueState:
        self._pause.pause(user)
        return QueueState(paused=True)

    def resume(self, user: str) -> QueueState:
        self._pause.resume(user)
        return QueueState(paused=False)
