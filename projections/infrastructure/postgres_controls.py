"""What operators want, as every loop of this process knows it within a second: LISTEN daybook_control, and a short poll as the net."""

import threading

import structlog

from projections.application.ports import Wanted
from projections.infrastructure.postgres import Database
from projections.infrastructure.postgres_trail import STATEMENTS
from shared_kernel.errors import Contention, Unavailable

NOTHING = Wanted()


class PostgresControls:
    """Watches in a thread of its own."""

    def __init__(self, database: Database, *, poll_ms: int, stop: threading.Event) -> None:
        self._database = database
        self._poll_s = poll_ms / 1_000
        self._stop = stop
        self._changed = threading.Condition()
        self._wanted: dict[str, Wanted] | None = None
        self._listening: object | None = None
        self._logger = structlog.get_logger("daybook.projector")

    def wanted(self, projection: str) -> Wanted | None:
        """What is to become of a projection; None before the first look."""
        wanted = self._wanted
        return None if wanted is None else wanted.get(projection, NOTHING)

    def wait(self, wait_s: float) -> None:
        """Returns when something was changed, or after the time."""
        with self._changed:
            self._changed.wait(wait_s)

    def run(self) -> None:
        """Returns after `stop` was set; what was known last holds while Postgres is away."""
        while not self._stop.is_set():
            try:
                self._look()
            except (Unavailable, Contention) as error:
                self._logger.warning("controls_not_seen", code=error.code, **error.fields)
                self._stop.wait(self._poll_s)
        self._database.close()
        self._tell()

    def _look(self) -> None:
        with self._database.session() as session:
            if self._listening is not session:
                session.execute("listen daybook_control")
                self._listening = session
            wanted = {
                projection: Wanted(is_paused=is_paused, generations=generations)
                for projection, is_paused, generations in session.execute(STATEMENTS["all_wanted"])
            }
            if wanted != self._wanted:
                self._wanted = wanted
                paused = sorted(projection for projection, each in wanted.items() if each.is_paused)
                self._logger.info("controls_seen", paused=paused)
            self._tell()
            for _ in session.notifies(timeout=self._poll_s, stop_after=1):
                pass

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
