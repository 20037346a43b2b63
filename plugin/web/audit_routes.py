"""The routes under /oar/audit: to read the record of every job, and to check it."""

from typing import Annotated

from pydantic import Field

from plugin.audit import Audit, AuditLine, Verdict
from plugin.web.router import Identifier, Message, Number, Route


class AuditQuery(Message):
    """Which lines to give."""

    job: Annotated[Identifier | None, Field(description="Only those of this job.")] = None
    after: Annotated[Number, Field(description="Only those behind the line of this number.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class VerifyQuery(Message):
    """A line that somebody noted earlier; number 0 and a hash of zeros are before the first."""

    number: Number | None = None
    hash: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$")] = None


class AuditLines(Message):
    """Lines of the record, the oldest first."""

    lines: tuple[AuditLine, ...]


class AuditRoutes:
    """Answers for the record."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self.routes = (
            Route(
                "GET",
                "/oar/audit",
                "Read the record of all jobs, deliveries, pauses",
                self.lines,
                role="administer",
            ),
            Route(
                "GET",
                "/oar/audit/verify",
                "Say whether the record is as it was written",
                self.verify,
                role="administer",
            ),
        )

    def lines(self, query: AuditQuery) -> AuditLines:
        return AuditLines(lines=tuple(self._audit.lines(**query.model_dump())))

    def verify(self, query: VerifyQuery) -> Verdict:
        return self._audit.verify(**query.model_dump())
