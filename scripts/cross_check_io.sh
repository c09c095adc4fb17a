#!/bin/sh
# Holds splat.io against PlayCanvas's splat-transform (MIT): every format both know, read and written, on real files.
#
#   scripts/cross_check_io.sh [FOLDER OF FILES]     default: ../shared/data/gaussian_scenes beside the checkout
#
# Needs Node 20 or later and npm. SPLAT_TRANSFORM names a folder where the tool is installed (or gets installed).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
data=${1:-$root/../shared/data/gaussian_scenes}
tool=${SPLAT_TRANSFORM:-${TMPDIR:-/tmp}/splat-transform}
python=${PYTHON:-python3}
[ -d "$data" ] || { echo "cross_check_io: no folder $data" >&2; exit 2; }
command -v node >/dev/null || { echo "cross_check_io: Node 20 or later is needed" >&2; exit 2; }
if [ ! -f "$tool/node_modules/@playcanvas/splat-transform/bin/cli.mjs" ]; then
    mkdir -p "$tool"
    npm install --silent --no-audit --no-fund --prefix "$tool" @playcanvas/splat-transform@2.7.1
fi
exec "$python" "$root/scripts/cross_check_io.py" "$data" "$tool/node_modules/@playcanvas/splat-transform/bin/cli.mjs"
