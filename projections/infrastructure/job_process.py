"""A child process that does one job: keeps its lease and tells its progress meanwhile, and writes down what came of it."""

import os
import random
import threading

import structlog

from projections.application.rebuild import Progress
from projections.infrastructure.postgres_jobs import PostgresJobs
from projections.infrastructure.workshop import Workshop
from shared_kernel.errors import Contention, DaybookError, Unavailable

INTERRUPTED = 3
STDIN = 0


class JobProcess:
    """One job, from its claim by the parent to its end."""

    def __init__(
        self,
        *,
        jobs: PostgresJobs,
        keeping: PostgresJobs,
        workshop: Workshop,
        lease_ms: int,
        report_ms: int,
        retry_ms: int,
        stop: threading.Event,
    ) -> None:
        self._jobs = jobs
        self._keeping = keeping  # of another connection: the lease is kept in a thread
        self._workshop = workshop
        self._lease_ms = lease_ms
        self._report_s = report_ms / 1_000
        self._retry_s = retry_ms / 1_000
        self._stop = stop
        self._progress = Progress()
        self._logger = structlog.get_logger("daybook.jobs")

    def run(self, id_: int, owner: str) -> int:
        """The exit code: 0, also where the job failed and that is written down; INTERRUPTED where somebody else must go on."""
        job = self._jobs.find(id_)
        if job is None:
            return 0
        self._progress.begin(done=job.events_done, total=job.events_total)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        threading.Thread(target=self._keep, args=(id_, owner), daemon=True).start()
        while not self._stop.is_set():
            try:
                outcome = self._workshop.work(job, owner, self._progress, self._stop)
            except (Unavailable, Contention) as error:
                self._logger.warning("job_waits", job=id_, code=error.code, **error.fields)
                self._stop.wait(self._retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            except DaybookError as error:
                self._logger.error("job_failed", job=id_, code=error.code, **error.fields)
                self._jobs.end(id_, owner, state="failed", error=error.code)
                return 0
            else:
                if self._stop.is_set():
                    break
                self._keeping.keep(id_, owner, self._lease_ms, self._progress)
                self._jobs.end(id_, owner, state="done", outcome=outcome)
                return 0
        return INTERRUPTED

    def run_share(self, id_: int, share: str) -> int:
        """The exit code, after this part of a rebuild (as 1/2: the first of two) is done; the lease is the parent's to keep."""
        job = self._jobs.find(id_)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        if job is not None:
            number, of = map(int, share.split("/"))
            try:
                self._workshop.work_share(job, number=number, of=of, stop=self._stop)
            except DaybookError as error:
                self._logger.warning("share_interrupted", job=id_, code=error.code, **error.fields)
                return INTERRUPTED
        return INTERRUPTED if self._stop.is_set() else 0

    def _keep(self, id_: int, owner: str) -> None:
        while not self._stop.wait(self._report_s):
            try:
                if not self._keeping.keep(id_, owner, self._lease_ms, self._progress):
                    self._logger.warning("job_lost", job=id_)
                    os._exit(INTERRUPTED)  # whatever is under way is not ours any more; positions are with their rows
            except (Unavailable, Contention) as error:
                self._logger.warning("job_not_kept", job=id_, code=error.code)


def _end_with_parent() -> None:
    """The parent never writes: there is something to read when the pipe is closed, by whatever end the parent came to."""
    os.read(STDIN, 1)  # not by sys.stdin, whose lock a thread that waits would still hold when the interpreter ends
    os._exit(INTERRUPTED)
