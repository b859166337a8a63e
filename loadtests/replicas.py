"""What happens to a rollout on three replicas when parts of it go away, at full size: `python -m loadtests.replicas`.

How fast a plan reaches every replica, how long a rollout is without a leader, 30 seconds without a database, and a rolling restart.
"""

import functools
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from loadtests.cluster import Cluster, missing
from loadtests.network import Balancer


def main() -> None:
    """Measure, and print a line for each."""
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), durable=True) as cluster:
        print(f"plan propagation: {propagation(cluster, 100)}")
        takeovers = [takeover(cluster) for _ in range(10)]
        print(f"takeover, lease 2 s, judged every 0.2 s: {summary(takeovers)}")
        print(f"30 s without a database at 100 requests/s: {outage(cluster, 30, 100)}")
        print(f"rolling restart at 200 requests/s: {rolling_restart(cluster, 200)}")


def propagation(cluster: Cluster, orders: int) -> str:
    """Seconds from an order's answer until every replica obeys it, seen by asking each in turn."""
    cluster.order("weight", weight=50)

    def obeyed(revision: int) -> bool:
        return all(cluster.revision(replica) >= revision for replica in cluster.replicas)

    seconds = []
    for i in range(orders):
        revision = cluster.order("weight", replica=i % len(cluster.replicas), weight=10 + i % 50)["revision"]
        seconds.append(cluster.until(functools.partial(obeyed, revision)))
    return summary(seconds)


def takeover(cluster: Cluster) -> float:
    """Seconds from the leader's `kill -9` until somebody else leads."""
    pid, holder = cluster.leader()
    psutil.Process(pid).kill()
    return cluster.until(lambda: cluster.leader()[1] != holder)


def outage(cluster: Cluster, seconds: float, rate: float) -> str:
    """Kill the database under load, start it after a while, and count what was answered and what is stored."""
    with cluster.load(rate) as load:
        time.sleep(2)
        cluster.postgres.kill()
        time.sleep(seconds)
        cluster.postgres.start()
        time.sleep(2)
    back = cluster.until(lambda: missing(cluster, load) == 0, 60)
    return f"{dict(load.statuses)}, lost {missing(cluster, load)}, all stored {back + 2:.1f} s after its start"


def rolling_restart(cluster: Cluster, rate: float) -> str:
    """Replace every replica, one after the other: an old one is told to stop when a new one gets requests, and drains meanwhile."""
    balancer, stopping = cluster.balancer, list(cluster.replicas)
    assert balancer is not None, "haproxy is not installed: `apt-get install haproxy`"
    with cluster.load(rate) as load:
        for i, old in enumerate(stopping):
            new = cluster.start()
            new.wait_until_ready()
            cluster.until(functools.partial(_is_ready, balancer, new.url))
            old.end()
            cluster.replicas[i] = new
        for old in stopping:
            old.ended()
            balancer.remove(old.url)
    cluster.until(lambda: missing(cluster, load) == 0, 30)
    wrong = f" ({load.wrong[0]})" if load.wrong else ""
    return f"{dict(load.statuses)}{wrong}, lost {missing(cluster, load)}"


def _is_ready(balancer: Balancer, url: str) -> bool:
    return url in balancer.ready()


def summary(seconds: list[float]) -> str:
    """Median, 99th percentile and largest."""
    ordered = sorted(seconds)
    p99 = ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]
    return f"p50 {statistics.median(ordered):.3f} s, p99 {p99:.3f} s, max {ordered[-1]:.3f} s, n {len(ordered)}"


if __name__ == "__main__":
    main()
