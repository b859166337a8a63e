"""Three replicas, one PostgreSQL, one candidate, HAProxy: they agree, one leads, and parts may go away under load.

The parts are in `loadtests.cluster`; `loadtests.replicas` measures the same at full size. The tests share one cluster, in this
order; each leaves it as it was. Where HAProxy is not installed, requests go to the replicas in turn.
"""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import httpx
import psutil
import pytest

from loadtests.cluster import RAMP, ROOT, Cluster, missing
from loadtests.network import HAPROXY
from loadtests.replicas import rolling_restart
from understudy.domain import Variant
from understudy.rollout.routing import variant
from understudy.store.records import read_from

pytestmark = [pytest.mark.acceptance, pytest.mark.alone]
balanced = pytest.mark.skipif(HAPROXY is None, reason="NO HAPROXY: `apt-get install haproxy`")

LEASE_S = 1.0
STALE_S = 1.5
KEYS = 100_000
ROUTES = """
import hashlib, sys
from understudy.rollout.routing import variant
from understudy.store.records import read_from
(record,) = read_from(sys.argv[1])
print(record.plan.weight, hashlib.sha256("".join(variant(record.plan, f"N{i}")[0] for i in range({keys})).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, models_built: None) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, LEASE_S=str(LEASE_S), TICK_MS="100", PLAN_STALE_S=str(STALE_S), DRAIN_S="1") as made:
        yield made


def routes(cluster: Cluster) -> set[str]:
    """What each replica makes of 100,000 keys: the plan that it reads through its own link, in a process of its own."""
    code = ROUTES.replace("{keys}", str(KEYS))
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", code, cluster.postgres.url(port=link.port)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
        )
        for link in cluster.links[-3:]
    ]
    found = {process.communicate(timeout=60)[0] for process in asked}
    assert [process.returncode for process in asked] == [0, 0, 0]
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
    "month": 7,
    "day": 1,
    "dow": 0,
    "sched_hour": 18,
    "sched_min": 30,
    "sched_arr_hour": 21,
    "distance": 1089,
    "temp": 80.1,
    "dewp": 71.1,
    "humid": 74.2,
    "wind_speed": 9.2,
    "precip": 0,
    "pressure": None,
    "visib": 10,
    "plane_age": 12,
    "carrier": "B6",
    "origin": "JFK",
    "dest": "MIA",
    "tailnum": "N632JB",
}


def at_half(cluster: Cluster) -> None:
    """Half of the keys to the candidate, on every replica."""
    wanted = cluster.order("weight", weight=50)["revision"]
    cluster.until(lambda: all(cluster.revision(replica) == wanted for replica in cluster.replicas))


ROUTED: dict[str, set[str]] = {}
"""What the replicas made of the keys before they were restarted."""


def test_every_replica_routes_every_key_alike(cluster: Cluster) -> None:
    at_half(cluster)
    ROUTED["before"] = routes(cluster)
    assert len(ROUTED["before"]) == 1
    first, second, third = answers(cluster, 100)
    assert first == second == third
    (record,) = read_from(cluster.postgres.url())
    assert record.plan is not None
    assert first == [variant(record.plan, f"N{i}").value for i in range(100)]
    assert 25 < Counter(first)[Variant.CANDIDATE] < 75


@balanced
def test_a_caller_gets_the_same_variant_whichever_replica_the_balancer_chooses(cluster: Cluster) -> None:
    assert cluster.balancer is not None
    at_half(cluster)
    with httpx.Client(base_url=cluster.balancer.url) as caller:
        for i in range(60):
            said = [
                caller.post("/predict", json={"rows": [ROW]}, headers={"X-Rollout-Key": f"N{i}"}).json()
                for _ in cluster.replicas
            ]
            assert len({each["variant"] for each in said}) == 1
            prefixes = {each["predictions"][0]["prediction_id"].rpartition("-")[0] for each in said}
            assert len(prefixes) == len(cluster.replicas), "each was asked by another one"


def test_a_killed_leader_is_followed_by_another_and_no_order_is_lost_or_doubled(cluster: Cluster) -> None:
    revisions = [cluster.order("weight", weight=20)["revision"]]
    killed = kill_leader(cluster)
    revisions += [cluster.order("weight", replica=j, weight=21 + j)["revision"] for j in range(3)]
    took = cluster.until(lambda: cluster.leader()[0] != killed)
    assert took < LEASE_S + 2, "the lease, a beat, and its round trip"
    assert revisions == list(range(revisions[0], revisions[0] + 4))
    said = cluster.postgres.sql("SELECT revision FROM events WHERE kind = 'weight' ORDER BY id").split()
    assert list(map(int, said))[-4:] == revisions, "one event for each, in order"
    all_record(cluster)


def kill_leader(cluster: Cluster, killed: Collection[int] = ()) -> int:
    """`kill -9` of the process that leads, once there is one that lives: the lease names a killed one for a while."""
    cluster.until(lambda: (pid := cluster.leader()[0]) not in killed and psutil.pid_exists(pid))
    pid, _ = cluster.leader()
    psutil.Process(pid).kill()
    return pid


def all_record(cluster: Cluster) -> None:
    """Wait until what each replica answers is stored: a records process that was killed is back."""
    ids = {
        replica.http.post("/predict", json={"rows": [ROW]}).json()["predictions"][0]["prediction_id"]
        for replica in cluster.replicas
    }
    cluster.until(lambda: ids <= stored(cluster))


def stored(cluster: Cluster) -> set[str]:
    """The predictions that are in the database."""
    return set(cluster.postgres.sql("SELECT prediction_id FROM observation_keys").split())


def test_the_database_may_be_away_under_load(cluster: Cluster) -> None:
    """Answers go on, from the primary alone once the plan is stale; records wait on disk, also through a kill, and all arrive."""
    at_half(cluster)
    before = [replica.log.read_text().count("the store is unavailable") for replica in cluster.replicas]
    with cluster.load(60) as load:
        cluster.until(lambda: len(load.seen) > 60)
        cluster.postgres.kill()
        gone = time.monotonic()
        cluster.until(lambda: spools(cluster) == 3)
        (writer,) = cluster.replicas[0].workers("Records")
        writer.kill()
        cluster.until(lambda: spools(cluster) == 4), "a new process spools while the database is still away"
        cluster.until(lambda: time.monotonic() > gone + STALE_S + 2)
        back = time.monotonic()
        cluster.postgres.start()
        waited = {own for at, own, _ in load.seen if at < back}  # of what comes now, some is always on its way
        cluster.until(lambda: waited <= stored(cluster), 20)
    assert set(load.statuses) == {200}, load.wrong[:3]
    assert {who for at, _, who in load.seen if gone + STALE_S + 1 < at < back} == {"primary"}
    cluster.until(lambda: missing(cluster, load) == 0, 20)
    cluster.until(lambda: spools(cluster) == 0)
    rows = int(cluster.postgres.sql("SELECT count(*) FROM observations WHERE mode = 'live'"))
    counted = cluster.postgres.sql("SELECT value FROM counters WHERE name = 'rows/live'")
    assert int(float(counted)) == rows, "replayed, and counted once"
    cluster.until(lambda: {"candidate", "primary"} == {who for each in answers(cluster, 10) for who in each})
    for replica, said in zip(cluster.replicas, before, strict=True):
        # A store is back a second after its last failure, which may be later than all of the above.
        cluster.until(lambda replica=replica: "the store is available again" in replica.log.read_text())
        log = replica.log.read_text()
        # The process that answers and the one that records, once each; the first replica's records process was another one then.
        assert log.count("the store is unavailable") - said <= 2 + (replica is cluster.replicas[0])


def spools(cluster: Cluster) -> int:
    """How many files have records that wait."""
    return len(list(cluster.folder.rglob("*.spool")))


def test_leaders_killed_while_the_judge_moves_lose_and_double_no_transition(cluster: Cluster) -> None:
    """The judge goes up a ramp by itself, on the evidence of live requests, while one leader after the other is killed."""
    all_record(cluster)
    cluster.order("abort")
    begun = cluster.order("retry")["revision"]

    def moves() -> list[tuple[Any, ...]]:
        columns = "revision, kind, actor, details::json->>'step', details::json->>'weight'"
        said = cluster.postgres.sql(f"SELECT {columns} FROM events WHERE revision > {begun} ORDER BY id")  # noqa: S608 - no text of others is in it
        return [tuple(line.split("|")) for line in said.splitlines()]

    killed: set[int] = set()
    with cluster.load(100):
        for so_many in (0, 1, 2):
            cluster.until(lambda so_many=so_many: len(moves()) >= so_many)  # type: ignore[misc]
            killed.add(kill_leader(cluster, killed))
        cluster.until(lambda: len(moves()) >= len(RAMP), 60)
    assert len(killed) == 3
    wanted = [(str(begun + i), "advance", "judge", str(i), f"{weight:.1f}") for i, weight in enumerate(RAMP, 1)]
    assert moves() == wanted, "each once, in order, and none left out"
    for replica in cluster.replicas:
        cluster.until(lambda replica=replica: cluster.revision(replica) == begun + len(RAMP))  # type: ignore[misc]
    all_record(cluster)


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
    assert "the plan could not be read for too long" in cut_off.log.read_text()


@balanced
def test_a_rolling_restart_fails_no_request_and_loses_no_record(cluster: Cluster) -> None:
    at_half(cluster)
    said = rolling_restart(cluster, 200)
    assert re.fullmatch(r"{200: \d+}, lost 0", said), said
    assert routes(cluster) == ROUTED["before"], "other processes, the same routes"
