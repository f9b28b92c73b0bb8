#!/usr/bin/env bash
# libwebarena 0.0.4, the evaluators of WebArena that browsergym-webarena 0.14.3 needs, and transformers 5.19.0: no set of
# packages holds both. libwebarena asks for text-generation, of which every version wants huggingface-hub below 1, and
# transformers 5 wants one above. So who trains with today's models has to run WebArena's tasks in a Python of its own.
# Seen: pip 25.3 says ResolutionImpossible; for each of the two alone it finds a set.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet pip==25.3
found() { pip install --dry-run --quiet --only-binary :all: "$@" > "$folder/said" 2>&1 && echo found || grep -o ResolutionImpossible "$folder/said"; }
seen="$(found text-generation transformers==5.19.0) $(found text-generation) $(found transformers==5.19.0)"
asked=$(pip download --quiet --no-deps --dest "$folder" libwebarena==0.0.4 && unzip -p "$folder"/libwebarena-0.0.4-*.whl '*/METADATA' | grep -ic '^Requires-Dist: text-generation$')
echo "both, text-generation alone, transformers alone; lines of libwebarena that ask for text-generation: $seen; $asked"
[ "$seen; $asked" = "ResolutionImpossible found found; 1" ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
