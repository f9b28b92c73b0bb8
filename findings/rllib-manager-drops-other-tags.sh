#!/usr/bin/env bash
# Ray 2.60.0: RLlib's FaultTolerantActorManager takes tags, so that requests of several kinds can be under way and each
# kind be fetched by itself. When a fetch of one tag finds an actor dead, the manager forgets all that this actor was
# asked, the other tags included. Whoever fetches another tag afterwards gets neither a result nor an error for that
# actor: nothing at all, at once, however long the timeout. A loop that waits for one answer an actor goes on for ever.
# Seen: one request of tag "a" and one of "b" to one actor that dies; fetching "a" gives 1 error, fetching "b" gives 0
# results, and num_outstanding_async_reqs("b") says 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "ray[rllib]==2.60.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import time

import ray
from ray.rllib.utils.actor_manager import FaultAwareApply, FaultTolerantActorManager


@ray.remote(max_restarts=-1, max_concurrency=4)
class Actor(FaultAwareApply):
    def wait(self) -> None:
        time.sleep(3600)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
actor = Actor.remote()
ray.get(actor.ping.remote())
manager = FaultTolerantActorManager([actor], max_remote_requests_in_flight_per_actor=2)
for tag in ("a", "b"):
    assert manager.foreach_actor_async("wait", tag=tag) == 1
ray.kill(actor, no_restart=False)
first = list(manager.fetch_ready_async_reqs(tags="a", timeout_seconds=60))
began = time.monotonic()
second = list(manager.fetch_ready_async_reqs(tags="b", timeout_seconds=60))
waited = time.monotonic() - began
left = manager.num_outstanding_async_reqs("b")
print({"a": [result.ok for result in first], "b": second, "outstanding b": left, "at once": waited < 1})
assert [result.ok for result in first] == [False] and second == [] and left == 0, "the behaviour has changed"
PY
echo "as described: the request of the other tag is gone without a result"
