"""A service that starts while its database is away: the primary answers at once, records wait, and all is well when it is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loadtests.postgres import Postgres
from models.data import Flight
from tests.support.service import Running, example, start

pytestmark = pytest.mark.acceptance


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def canary_at_once(folder: Path) -> Path:
    """The example, with half of the traffic for the candidate from the first request on."""
    data = example() | {"steps": [{"canary": 50}], "route_by": None}
    path = folder / "rollout.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def metric(service: Running, name: str) -> float:
    return float(re.findall(rf"^{name} (\S+)$", service.http.get("/metrics").text, re.MULTILINE)[0])


def test_it_answers_with_the_primary_and_catches_up(tmp_path: Path, postgres: Postgres, july: list[Flight]) -> None:
    postgres.kill()
    state = tmp_path / "state"
    service = start(state, rollout=canary_at_once(tmp_path), store_url=postgres.url(), store_timeout_s="1")
    try:
        given = [service.predict(flight.row).json() for flight in july[:60]]
        assert {each["variant"] for each in given} == {"primary"}, "nobody knows whether the candidate may be asked"
        assert metric(service, "understudy_plan_stale") == 1
        assert service.http.get("/readyz").status_code == 200, "it is ready for what it is for"
        label = {"prediction_id": given[0]["predictions"][0]["prediction_id"], "label": 1}
        for call in (service.http.get("/rollout"), service.http.post("/feedback", json={"labels": [label]})):
            assert call.status_code == 503, "a label is not acknowledged that is nowhere"
        service.wait_for(lambda: metric(service, "understudy_store_spooled_rows") == len(given))
        postgres.start()
        service.wait_for(lambda: service.rollout().get("phase") == "canary")
        service.wait_for(lambda: service.predict(july[61].row).json()["variant"] == "candidate")
        ids = {each["predictions"][0]["prediction_id"] for each in given}
        service.wait_for(lambda: ids <= set(postgres.sql("SELECT prediction_id FROM observation_keys").split()))
        service.wait_for(lambda: not list(state.rglob("*.spool")))
        assert metric(service, "understudy_plan_stale") == 0
        assert service.http.post("/feedback", json={"labels": [label]}).json()["matched"] == 1
        assert postgres.sql("SELECT count(*) FROM events WHERE kind = 'started'") == "1"
        # At one moment, since what was asked last may be on its way.
        apart = postgres.sql(
            "SELECT value - (SELECT count(*) FROM observations WHERE mode = 'live') FROM counters WHERE name = 'rows/live'"
        )
        assert float(apart) == 0, "replayed, and counted once"
        service.wait_for(lambda: service.log.read_text().count("the store is available again") == 2)
    finally:
        service.stop()
    log = service.log.read_text()
    for said in ("the store is unavailable: predictions continue", "the store is available again"):
        assert log.count(said) == 2, f"{said}: the process that answers, and the one that keeps the records\n{log}"
    waited = sorted(int(rows) for rows in re.findall(r"records_waited=(\d+)", log))
    # All of them where records are kept, and who came while they went to the store; none where requests are answered.
    assert (waited[0], waited[1] >= len(given)) == (0, True), log
    assert len([line for line in log.splitlines() if "store" in line]) == 4, "nothing in between"
