#!/bin/bash
# Run every command of the README in order, on small pictures, as a new user would.
#
#     tests/front_door.sh BIN
#
# BIN is the bin folder of a virtual environment in which this package is installed. Nothing is
# activated, the environment is empty, and so is HOME, which must stay so. Ends at the first command
# that fails, with its exit code. Takes some five minutes on two cores. Ports 6379 and 8265 of this
# machine must be free; the head that is started here is ended by its process id.
set -euo pipefail

bin=$(realpath "${1:?give the bin folder of an environment with this package}")
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
export TMPDIR="$work/tmp"
mkdir "$work/home" "$TMPDIR"
group=

clean() {
    local code=$?
    if [ -n "$group" ]; then # the head ends what it has started
        kill -TERM "$group" 2>/dev/null || true
        for _ in $(seq 15); do
            kill -0 -- "-$group" 2>/dev/null || break
            sleep 1
        done
        kill -KILL -- "-$group" 2>/dev/null || true
    fi
    if [ "$code" = 0 ]; then rm -rf "$work"; else echo "exit code $code; see $work" >&2; fi
}
trap clean EXIT

bare() { # COMMAND...: in an empty environment and the clone
    local start=$SECONDS
    echo "\$ ${*/#$bin\//}"
    # PYTHONPATH: the clone is run, also where the environment holds another checkout.
    (cd "$work/clone" && env -i HOME="$work/home" TMPDIR="$TMPDIR" PATH=/usr/bin:/bin \
        PYTHONPATH="$work/clone" "$@")
    echo "  ($((SECONDS - start)) s)"
}

there() { # GLOB N: at least N files match
    local found
    found=$(cd "$work/clone" && compgen -G "$1" | wc -l)
    [ "$found" -ge "$2" ] || { echo "$1: $found files, not $2" >&2; exit 1; }
}

git clone --quiet "$root" "$work/clone"
bare "$bin/python" -c '
from pathlib import Path
from PIL import Image
for folder, sigma in (("photos", 20), ("paintings", 90)):
    Path(folder).mkdir()
    for name in "ab":
        picture = Image.effect_noise((96, 64), sigma + ord(name)).convert("RGB")
        picture.save(f"{folder}/{name}.png")
'

style="$bin/neural-style"
small="--weights compact --image-size 64 --iterations 10"
folders="--content ./photos --style ./paintings"
bare "$style" --version
first=$SECONDS
bare "$style" stylize $folders --output ./out $small
echo "first pictures of two folders: $((SECONDS - first)) s"
there 'out/images/*.png' 2
there 'out/report.html' 1
bare "$style" stylize $folders --output ./out --dry-run $small
bare "$style" verify --output ./out
bare "$style" report ./out
bare "$style" manifest $folders --output ./pairs
bare "$style" stylize --manifest ./pairs --output ./out2 $small
there 'out2/images/*.png' 2

# A cluster of this machine: the head has the environment first in PATH. It stays in the foreground
# of a group of its own, so that it can be ended without ending another Ray.
echo '$ ray start --head'
(cd "$work/clone" && exec setsid env -i HOME="$work/home" TMPDIR="$TMPDIR" PATH="$bin:/usr/bin:/bin" \
    RAY_USAGE_STATS_ENABLED=0 timeout -k 10 280 "$bin/ray" start --head --block \
    --node-ip-address=127.0.0.1 --temp-dir="$TMPDIR/ray" --disable-usage-stats \
    >"$work/head.log" 2>&1) &
group=$!
for _ in $(seq 60); do
    curl --silent --fail --output /dev/null http://127.0.0.1:8265/api/version && break
    kill -0 "$group" 2>/dev/null || { cat "$work/head.log" >&2; exit 1; }
    sleep 1
done
bare "$bin/ray" job submit --address http://127.0.0.1:8265 --working-dir . -- \
    python -m jobs.stylize --manifest "$work/clone/pairs" --output "$work/clone/out3" $small
there 'out3/images/*.png' 2

left=$(find "$work/home" -mindepth 1)
[ -z "$left" ] || { echo "HOME is not empty: $left" >&2; exit 1; }
echo "every command went through; HOME is empty"
