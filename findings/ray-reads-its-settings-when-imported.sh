#!/usr/bin/env bash
# Ray 2.60.0: `import ray` alone reads all RAY_* variables, once a process. One that is set after the import and before
# `ray.init` is read by the raylet, which `ray.init` starts, but not by this process: the two go by different settings.
# And a process forked from one that has imported Ray keeps what was read there, RAY_JOB_ID of a worker too.
# Seen: set before the import 12345, set between import and use 536870912; the fork of such a process 536870912.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ray==2.60.0
cd "$folder"
cat > seen.py <<'PY'
import os
import sys

if sys.argv[1] == "before":
    os.environ["RAY_max_grpc_message_size"] = "12345"
import ray
from ray._raylet import Config

if sys.argv[1] == "fork" and os.fork():
    os.wait()
    sys.exit()
os.environ["RAY_max_grpc_message_size"] = "12345"
print(Config.max_grpc_message_size())
PY
seen=""
for when in before after fork; do seen+="$("$folder/venv/bin/python" seen.py "$when") "; done
echo "set before the import, after it, in a fork: $seen"
[ "$seen" = "12345 536870912 536870912 " ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
