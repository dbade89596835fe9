#!/usr/bin/env bash
# Makes benchmarks/.venv-omnisafe, where OmniSafe 0.5.0 runs beside ours (Python 3.11, some 1.5 GB, minutes).
set -euo pipefail
cd "$(dirname "$0")/../.."
pins=requirements/peers-omnisafe.txt
venv=benchmarks/.venv-omnisafe
"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: PYTHON=python3.11 " + sys.argv[1])' "$0"
"${PYTHON:-python3}" -m venv --clear "$venv"
# torch with its dependencies, for which of them there are depends on the machine; the rest is pinned whole.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$pins" "$(grep '^torch==' "$pins")"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$pins"
echo "OmniSafe is installed in $venv; now: python benchmarks/training.py --only omnisafe"
