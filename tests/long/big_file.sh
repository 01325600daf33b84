#!/usr/bin/env bash
# The head of a large released file, and a place far in it, are read long before all of it is back.
# usage: big_file.sh [GIB]      (default 4; the tier is limited to 100 MB/s)
set -euo pipefail
. "$(dirname "$0")/waiting.bash"
gib=${1:-4}
begin $((gib * 1024 * 2 + 1024))

say "$gib GiB of generated data"
"$load" big "$dir/guard/b/big" $((gib << 30))
up ""
say "archive and release"
"$cairn" archive --wait -q "$dir/mnt/big"
"$cairn" release --wait -q "$dir/mnt/big"
check "MiB of the released file on disk" "$(du -m "$dir/guard/b/big" | cut -f1)" 1
down
up "rate=100MB/s"
sync; echo 3 >/proc/sys/vm/drop_caches

begun=$(now_ms)
head -c 4096 "$dir/mnt/big" >"$dir/head"
check "ms until head -c 4096 is done" $(($(now_ms) - begun)) 900
"$load" big "$dir/expected" 4096
cmp "$dir/head" "$dir/expected"
state=$("$cairn" state "$dir/mnt/big"); echo "  state: $state"
far=$((gib * 3 / 4 << 30))
read -r _ _ took < <("$load" check "$dir/mnt/big" $far 4096)
check "ms until 4096 bytes at $((far >> 30)) GiB are read" "$took" 900
read -r _ _ took < <("$load" check "$dir/mnt/big" $((far + (300 << 20))) 131072)
check "ms until 128 KiB 300 MiB behind that are read" "$took" 900
echo "  on disk by now: $(du -m "$dir/guard/b/big" | cut -f1) MiB allocated"
state=$("$cairn" state "$dir/mnt/big"); echo "  state: $state"
case $state in *released*) ;; *) echo "  FAILS the file is back already: nothing was proven"; failures=$((failures + 1)) ;; esac

say "all of it, compared"
begun=$(now_ms)
for ((at = 0; at < gib; at++)); do "$load" check "$dir/mnt/big" $((at << 30)) $((1 << 30)) >/dev/null; done
took=$(($(now_ms) - begun))
echo "  the rest came at $((gib * 1073 * 1000 / (took + 1))) MB/s or more ($took ms)"
"$cairn" stage --wait -q "$dir/mnt/big"
echo "  state: $("$cairn" state "$dir/mnt/big")"
down
finish
