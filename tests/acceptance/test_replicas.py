"""Three replicas, one PostgreSQL, one candidate, a balancer: they agree, one leads, and parts may go away under load.

The parts are in `loadtests.cluster`; `loadtests.replicas` measures the same at full size. The tests share one cluster, in this
order; each leaves it as it was.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from loadtests.cluster import ROOT, Cluster, missing
from loadtests.replicas import rolling_restart
from service.domain import Variant
from service.route import variant
from service.store.records import read_from

pytestmark = pytest.mark.acceptance

KEYS = 100_000
ROUTES = """
import hashlib, sys
from service.route import variant
from service.store.records import read_from
(record,) = read_from(sys.argv[1])
print(record.plan.revision, hashlib.sha256("".join(variant(record.plan, f"N{i}")[0] for i in range({keys})).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, models_built: None) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


def routes(cluster: Cluster) -> set[str]:
    """What each replica makes of 100,000 keys: the plan that it reads through its own link, in a process of its own."""
    found = set()
    for link in cluster.links[-3:]:
        url = cluster.postgres.url(port=link.port)
        code = ROUTES.replace("{keys}", str(KEYS))
        found.add(
            subprocess.run(
                [sys.executable, "-c", code, url], cwd=ROOT, text=True, capture_output=True, check=True
            ).stdout
        )
    return found


def answers(cluster: Cluster, keys: int) -> list[list[str]]:
    """Who answers each of some keys, by replica."""
    row = ROW
    return [
        [
            replica.http.post("/predict", json={"rows": [row]}, headers={"X-Rollout-Key": f"N{i}"}).json()["variant"]
            for i in range(keys)
        ]
        for replica in cluster.replicas
    ]


ROW = {
    "month": 7, "day": 1, "dow": 0, "sched_hour": 18, "sched_min": 30, "sched_arr_hour": 21, "distance": 1089, "temp": 80.1,
    "dewp": 71.1, "humid": 74.2, "wind_speed": 9.2, "precip": 0, "pressure": None, "visib": 10, "plane_age": 12,
    "carrier": "B6", "origin": "JFK", "dest": "MIA", "tailnum": "N632JB",
}  # fmt: skip


def at_half(cluster: Cluster) -> None:
    """Half of the keys to the candidate, on every replica."""
    wanted = cluster.order("weight", weight=50)["revision"]
    cluster.until(lambda: all(cluster.revision(replica) == wanted for replica in cluster.replicas))


def test_every_replica_routes_every_key_alike(cluster: Cluster) -> None:
    at_half(cluster)
    before = routes(cluster)
    assert len(before) == 1
    first, second, third = answers(cluster, 200)
    assert first == second == third
    (record,) = read_from(cluster.postgres.url())
    assert record.plan is not None
    assert first == [variant(record.plan, f"N{i}").value for i in range(200)]
    assert 60 < Counter(first)[Variant.CANDIDATE] < 140
    assert routes(cluster) == before, "a restarted process makes the same of them"


def test_a_killed_leader_is_followed_by_another_and_no_order_is_lost_or_doubled(cluster: Cluster) -> None:
    revisions = [cluster.order("weight", weight=20)["revision"]]
    for i in range(2):
        killed = cluster.leader()
        psutil.Process(killed[0]).kill()
        revisions += [cluster.order("weight", replica=(i + j) % 3, weight=21 + 3 * i + j)["revision"] for j in range(3)]
        took = cluster.until(lambda killed=killed: cluster.leader() != killed)  # type: ignore[misc]
        assert took < 2 + 2, "the lease, a beat, and its round trip"
    assert revisions == list(range(revisions[0], revisions[0] + 7))
    said = cluster.postgres.sql("SELECT revision FROM events WHERE kind = 'weight' ORDER BY id").split()
    assert list(map(int, said))[-7:] == revisions, "one event for each, in order"
    all_record(cluster)


def all_record(cluster: Cluster) -> None:
    """Wait until what each replica answers is stored: a records process that was killed is back."""
    ids = {
        replica.http.post("/predict", json={"rows": [ROW]}).json()["predictions"][0]["prediction_id"]
        for replica in cluster.replicas
    }
    cluster.until(lambda: ids <= set(cluster.postgres.sql("SELECT prediction_id FROM observation_keys").split()))


def test_the_database_may_be_away_under_load(cluster: Cluster) -> None:
    """Answers go on, from the primary alone once the plan is stale; records wait on disk, also through a kill, and all arrive."""
    at_half(cluster)
    with cluster.load(60) as load:
        time.sleep(1)
        cluster.postgres.kill()
        gone = time.monotonic()
        cluster.until(lambda: any(cluster.folder.rglob("*.spool")))
        writers = cluster.replicas[0].workers("Records")
        assert len(writers) == 1
        writers[0].kill()
        time.sleep(max(0.0, gone + 7 - time.monotonic()))
        cluster.postgres.start()
        back = time.monotonic()
        time.sleep(2)
    assert set(load.statuses) == {200}, load.wrong[:3]
    assert {who for at, _, who in load.seen if gone + 3.5 < at < back} == {"primary"}
    cluster.until(lambda: missing(cluster, load) == 0, 20)
    cluster.until(lambda: not any(cluster.folder.rglob("*.spool")))
    rows = int(cluster.postgres.sql("SELECT count(*) FROM observations WHERE mode = 'live'"))
    counted = cluster.postgres.sql("SELECT value FROM counters WHERE name = 'rows/live'")
    assert int(float(counted)) == rows, "replayed, and counted once"
    cluster.until(lambda: {"candidate", "primary"} == {who for each in answers(cluster, 10) for who in each})


def test_a_replica_that_cannot_read_the_plan_keeps_live_traffic_from_the_candidate(cluster: Cluster) -> None:
    """Its database hangs behind a network that lost it; the others go on, and so does it when the network is back."""
    at_half(cluster)
    cut_off, link = cluster.replicas[-1], cluster.links[-1]

    def candidates() -> list[int]:
        return [Counter(each)["candidate"] for each in answers(cluster, 20)]

    assert min(candidates()) > 0
    link.cut()
    took = cluster.until(lambda: candidates()[-1] == 0, 15)
    assert took > 1, "at once would mean that a lost packet moves traffic"
    assert min(candidates()[:-1]) > 0
    assert cut_off.http.get("/readyz").status_code == 200
    assert "understudy_plan_stale 1.0" in cut_off.http.get("/metrics").text
    link.mend()
    cluster.until(lambda: candidates()[-1] > 0, 20)
    assert "the plan is too old" in cut_off.log.read_text()


def test_a_rolling_restart_fails_no_request_and_loses_no_record(cluster: Cluster) -> None:
    at_half(cluster)
    before = routes(cluster)
    said = rolling_restart(cluster, 200)
    assert said.startswith("{200: "), said
    assert said.count(":") == 1, said
    assert said.endswith("lost 0"), said
    assert routes(cluster) == before
