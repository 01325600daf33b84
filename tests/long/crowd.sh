#!/usr/bin/env bash
# Ten thousand processes at once: a fifth of them read released files, the others make, rename, read
# and remove files; every tenth is killed on the way. None may fail, nothing may be left behind.
# usage: crowd.sh [PROCESSES]      (default 10000)
set -euo pipefail
. "$(dirname "$0")/waiting.bash"
count=${1:-10000} bytes=65536
begin 3000
[ "$(cat /proc/sys/kernel/pid_max)" -gt $((count + 2000)) ] || skip "kernel.pid_max is too small for $count processes"
ulimit -u unlimited 2>/dev/null || true

"$load" make "$dir/guard/b/cold" $((count / 5)) $bytes
mkdir "$dir/guard/b/hot"
up ""
"$cairn" archive --wait -q "$dir/mnt/cold"
"$cairn" release --wait -q "$dir/mnt/cold"
check "MiB on disk of what was released" "$(du -sm "$dir/guard/b/cold" | cut -f1)" $((count / 5 * 8 / 1024 + 8))
held() { find "/proc/$instance/fd" -mindepth 1 2>/dev/null | wc -l; }
# One descriptor for each file that was used stays in a cache of bounded size, so a crowd leaves some behind: a second one,
# over the same files, must find them there and leave no more.
crowd() {
  local before failed killed took
  before=$(held)
  say "$count processes"
  read -r _ failed _ killed took <<<"$("$load" crowd "$dir/mnt" "$count" $bytes)"
  echo "  $took ms; $killed were killed before they were done; the server had $before descriptors before, $(held) after"
  check "processes that failed" "$failed" 0
  # What killed ones had made stays, as on any filesystem; the rest is gone.
  check "files left by those that were not killed" \
    "$(find "$dir/guard/b/hot" -type f | wc -l)" "$((count / 10))"
  find "$dir/mnt/hot" -type f -delete
  "$load" reads "$dir/mnt/cold" $((count / 5)) >/dev/null
}
crowd
kept=$(held)
check "descriptors that the server keeps, files and some" "$kept" $((count / 5 + 600))
crowd
end=$((SECONDS + 60))
until [ "$(held)" -le $((kept + 100)) ] || [ $SECONDS -ge $end ]; do sleep 0.2; done
check "descriptors that the server keeps after the second" "$(held)" $((kept + 100))
check "files of which the catalog or the mount says anything bad" \
  "$("$cairn" status --json "$dir/mnt" | grep -o '"lost":[0-9]*,"conflict":[0-9]*' | tr -dc '0-9\n' | sed 's/^0*//' | grep -c . || true)" 0
down
finish
