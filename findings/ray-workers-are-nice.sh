#!/usr/bin/env bash
# Ray 2.60.0 on Linux: every worker process, so every task and actor, runs at niceness 15, and its threads with it;
# the driver stays at 0. What the driver computes itself, or any other program at the default priority, takes the cores
# from engines and learners that are actors. A benchmark of an actor against the same code in the driver measures the
# priority too. (RAY_worker_niceness changes it before `ray start` or `ray.init`.)
# Seen: the driver 0, a task 15, an actor 15; with RAY_worker_niceness=0 both 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ray==2.60.0
cd "$folder"
cat > seen.py <<'PY'
import os

import ray


@ray.remote
def task() -> int:
    return os.nice(0)


@ray.remote
class Actor:
    def nice(self) -> int:
        return os.nice(0)


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
print(os.nice(0), ray.get(task.remote()), ray.get(Actor.remote().nice.remote()))
PY
usual=$("$folder/venv/bin/python" seen.py 2> /dev/null)
asked=$(RAY_worker_niceness=0 "$folder/venv/bin/python" seen.py 2> /dev/null)
echo "driver, task, actor: $usual; with RAY_worker_niceness=0: $asked"
[ "$usual" = "0 15 15" ] && [ "$asked" = "0 0 0" ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
