"""The jobs as they are now, for whoever looks and changes nothing."""

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from plugin.jobs.job import STATES, Job, Kind, State
from plugin.jobs.job_table import JobRow


class UnknownJob(LookupError):
    """There is no job of this identifier."""


class JobReader:
    """All jobs, whatever became of them. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        """
        Args:
            engine: from `open_database`.
        """
        self._engine = engine

    def get(self, job_id: str) -> Job:
        """The job as it is now; UnknownJob if there is none."""
        with Session(self._engine) as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise UnknownJob(f"There is no job {job_id}.")
            return Job.model_validate(row)

    def find(
        self,
        *,
        state: State | None = None,
        study: str | None = None,
        series: str | None = None,
        source: str | None = None,
        kind: Kind | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Jobs, the newest first; `source` is a hash of their slices."""
        wanted = select(JobRow).order_by(JobRow.created.desc(), JobRow.id).limit(limit)
        for column, value in (
            (JobRow.state, state),
            (JobRow.study, study),
            (JobRow.series, series),
            (JobRow.source, source),
            (JobRow.kind, kind),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        with Session(self._engine) as session:
            rows = session.scalars(wanted).all()
        return [Job.model_validate(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """Number of jobs in each state."""
        with Session(self._engine) as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            found = {row[0]: row[1] for row in rows}
        return {state: found.get(state, 0) for state in STATES}
