#!/usr/bin/env bash
# Ray Serve 2.60.0: each `serve.status()` pickles the request router class of each deployment, by value and in the
# caller: its modules are looked for among all that the process has imported, once for each function. In a process that
# has PyTorch and transformers imported a call cost 24 ms of a core (18 ms without them). A loop that polls ten times a
# second while replicas start takes a quarter of a core from them.
# Seen: 1 class pickled, 110 looks through sys.modules, for one call with one deployment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "ray[serve]==2.60.0"
cd "$folder"
cat > seen.py <<'PY'
import cProfile
import pstats

import ray
from ray import serve


@serve.deployment
class Answer:
    def __call__(self) -> int:
        return 1


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
serve.run(Answer.bind(), route_prefix=None)
profile = cProfile.Profile()
profile.runcall(serve.status)
calls = {name: total for (_, _, name), (_, total, *_) in pstats.Stats(profile).stats.items()}
print(calls.get("_serialize_request_router_cls", 0), calls.get("_find_imported_submodules", 0))
PY
seen=$("$folder/venv/bin/python" seen.py 2> /dev/null)
echo "classes pickled, looks through sys.modules: $seen"
[ "$seen" = "1 110" ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
