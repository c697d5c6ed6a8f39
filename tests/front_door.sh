#!/bin/bash
# Run every command of the README in order, on small pictures, as a new user would.
#
#     tests/front_door.sh [BIN]
#
# BIN is the bin folder of a virtual environment in which this package is installed. Without it, the
# README's own commands install it into a fresh clone: minutes, and several GB in TMPDIR. Nothing is
# activated, the environment is empty, and so is HOME, which must stay so. Ends at the first command
# that fails, with its exit code. Takes some five minutes on two cores. Ports 6379 and 8265 of this
# machine must be free; the head that is started here is ended by its process id.
set -euo pipefail

bin=${1:+$(realpath "$1")}
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
clone="$work/clone"
export TMPDIR="$work/tmp"
mkdir "$work/home" "$TMPDIR"
small=${SMALL:---weights compact --image-size 64 --iterations 10}
modules=${bin:+PYTHONPATH=$clone} # the clone is run, also where the environment holds another checkout
bin=${bin:-$clone/.venv/bin}
group=
pictured=

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
    local start=$SECONDS code=0
    echo "\$ ${*/#$bin\//}"
    (cd "$clone" && env -i HOME="$work/home" TMPDIR="$TMPDIR" PATH=/usr/bin:/bin $modules "$@") ||
        code=$?
    echo "  ($((SECONDS - start)) s)"
    return $code
}

there() { # GLOB N: at least N files match
    local found
    found=$(cd "$clone" && compgen -G "$1" | wc -l)
    [ "$found" -ge "$2" ] || { echo "$1: $found files, not $2" >&2; exit 1; }
}

# A cluster of this machine: the head has the environment first in PATH. It stays in the foreground
# of a group of its own, so that it can be ended without ending another Ray.
start_head() {
    echo '$ ray start --head'
    (cd "$clone" && exec setsid env -i HOME="$work/home" TMPDIR="$TMPDIR" PATH="$bin:/usr/bin:/bin" \
        RAY_USAGE_STATS_ENABLED=0 timeout -k 10 280 "$bin/ray" start --head --block \
        --node-ip-address=127.0.0.1 --temp-dir="$TMPDIR/ray" --disable-usage-stats \
        >"$work/head.log" 2>&1) &
    group=$!
    for _ in $(seq 60); do
        curl --silent --fail --output /dev/null http://127.0.0.1:8265/api/version && return
        kill -0 "$group" 2>/dev/null || break
        sleep 1
    done
    cat "$work/head.log" >&2
    exit 1
}

git clone --quiet "$root" "$clone"
python3 "$clone/tests/doc_commands.py" "$clone/README.md" >"$work/commands"
while read -r command <&3; do
    read -r -a words <<<"${command//\"/}"
    case "$command" in
    "python3 -m venv .venv && source .venv/bin/activate")
        [ -n "$modules" ] || bare bash -c "$command"
        ;;
    "pip install .")
        [ -n "$modules" ] || bare "$bin/pip" install --quiet --no-cache-dir .
        bare "$bin/python" -c '
from pathlib import Path
from PIL import Image
for folder, sigma in (("photos", 20), ("paintings", 90)):
    Path(folder).mkdir()
    for name in "ab":
        picture = Image.effect_noise((96, 64), sigma + ord(name)).convert("RGB")
        picture.save(f"{folder}/{name}.png")
'
        bare "$bin/neural-style" --version
        ;;
    "neural-style stylize "*)
        start=$SECONDS
        bare "$bin/neural-style" "${words[@]:1}" $small
        [ -n "$pictured" ] || echo "first pictures of two folders: $((SECONDS - start)) s"
        pictured=yes
        there 'out/images/*.png' 2
        ;;
    "neural-style "*) bare "$bin/neural-style" "${words[@]:1}" ;;
    "export PATH="*) ;; # for the head alone
    "ray start --head") start_head ;;
    "ray job submit "*)
        bare "$bin/neural-style" manifest --content ./photos --style ./paintings --output ./pairs
        words=("${words[@]/s3:\/\/bucket/$clone}")
        until bare "$bin/ray" "${words[@]:1}" $small --output "$clone/out2" --gpus-per-actor 0 \
            --actors 1 >"$work/submitted" 2>&1; do
            # A head takes jobs some seconds after it answers.
            grep -q 'No available agent' "$work/submitted" || { cat "$work/submitted" >&2; exit 1; }
            sleep 5
        done
        cat "$work/submitted"
        there 'out2/images/*.png' 2
        ;;
    *)
        echo "no rule here for: $command" >&2
        exit 1
        ;;
    esac
done 3<"$work/commands"

left=$(find "$work/home" -mindepth 1)
[ -z "$left" ] || { echo "HOME is not empty: $left" >&2; exit 1; }
echo "every command went through; HOME is empty"
