#!/usr/bin/env bash
# Fetches learn2learn 0.2.0 into benchmarks/.learn2learn, where benchmarks/metalearn.py finds it.
# Only its source is taken: its MAML class is pure Python, and its extensions do not build on Python 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.learn2learn
rm -rf "$folder"
mkdir "$folder"
# To say what it is called, its setup script asks for wheel.
python="${PYTHON:-python3}"
"$python" -m pip install --quiet --disable-pip-version-check --target "$folder"/tools setuptools wheel
PYTHONPATH=$PWD/$folder/tools "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
	--no-build-isolation --no-binary :all: --dest "$folder" learn2learn==0.2.0
tar --extract --gzip --strip-components=1 --directory "$folder" --file "$folder"/learn2learn-0.2.0.tar.gz
echo "learn2learn is in benchmarks/$folder; now: python benchmarks/metalearn.py"
