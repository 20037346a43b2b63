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
        self.routes = tuple(
            Route(
                method="POST",
                path=f"/oar/queue/{name}",
                summary=summary,
                function=function,
                user=True,
                role="administer",
                answer=QueueState,
            )
            for name, summary, function in (
                ("pause", "Take no further job; the running one goes on", self.pause),
                ("resume", "Take jobs again", self.resume),
            )
        )

    def pause(self, user: str = "") -> QueueState:
        self._pause.pause(user)
        return QueueState(paused=True)

    def resume(self, user: str = "") -> QueueState:
        self._pause.resume(user)
        return QueueState(paused=False)
