#!/usr/bin/env bash
# A blocked reader blocks only itself; a queue of archives keeps no stage waiting.
# usage: waiting_readers.sh [READERS] [ARCHIVES]      (default 5000 and 100000)
set -euo pipefail
. "$(dirname "$0")/waiting.bash"
readers=${1:-5000} archives=${2:-100000} stats=20000
begin 3000

# idle_and_loaded: prints the p99 of cold stats.
cold_stat() {
  echo 2 >/proc/sys/vm/drop_caches
  "$load" stat "$dir/mnt/small" $stats
}
# interrupted FILE: ms from SIGINT to the end of a reader that waits for FILE.
interrupted() {
  # Whoever starts this in the background may have it ignore the signal, and so would what it starts.
  set -m; env --default-signal=INT "${reader[@]}" "$1" >/dev/null 2>&1 & local pid=$! begun; set +m
  local end=$((SECONDS + 30))
  # In the page cache, or, of a page that an interrupted reader left, in its request.
  until grep -q ') D ' "/proc/$pid/stat" 2>/dev/null || grep -q request_wait_answer "/proc/$pid/wchan" 2>/dev/null; do
    [ $SECONDS -lt $end ] || { echo 99999; return; }
    sleep 0.02
  done
  sleep 0.3
  begun=$(now_ms); kill -INT $pid
  wait $pid 2>/dev/null || true
  echo $(($(now_ms) - begun))
}

say "files: $readers to wait for, $stats to stat, $archives to archive"
"$load" make "$dir/guard/b/cold" $((readers + 20)) 65536
"$load" make "$dir/guard/b/small" $stats 100
"$load" make "$dir/guard/b/lone" 3 1048576
up ""
"$cairn" archive --wait -q "$dir/mnt/cold" "$dir/mnt/lone"
"$cairn" release --wait -q "$dir/mnt/cold" "$dir/mnt/lone"
check "MiB on disk of what was released" "$(du -sm --exclude=small "$dir/guard/b/cold" | cut -f1)" $((readers * 8 / 1024 + 8))
down

say "--- $readers readers wait on a tier with a delay of 10 s"
up "delay=10s"
"$load" reads "$dir/mnt/small" $stats >/dev/null
read -r before_50 before_99 before_max <<<"$(cold_stat)"
echo "  idle:   p50 $before_50 us, p99 $before_99 us, longest $before_max us"
"$load" wait "$dir/mnt/cold" "$readers" >"$dir/waiters" & waiters=$!
end=$((SECONDS + 120))
until [ "$(tail -1 "$dir/waiters" | cut -d' ' -f2)" = "$readers" ]; do
  [ $SECONDS -lt $end ] || { tail -1 "$dir/waiters"; say "the readers do not come to wait"; exit 1; }
  sleep 0.2
done
sleep 2
read -r in_50 in_99 in_max <<<"$(cold_stat)"
echo "  loaded: p50 $in_50 us, p99 $in_99 us, longest $in_max us"
read -r _ reads_99 _ <<<"$("$load" reads "$dir/mnt/small" 2000)"
echo "  resident reads meanwhile: p99 $reads_99 us"
check "resident reads go on, p99 in us" "$reads_99" 50000
# A program that catches the signal, as many do, is told by Cairn alone; one that does not is ended
# by the kernel.
catches='import os,signal,sys
signal.signal(signal.SIGINT, lambda *a: os._exit(0))
os.read(os.open(sys.argv[1], os.O_RDONLY), 1)'
for who in cat catcher; do
  reader=(cat); [ $who = cat ] || reader=(python3 -c "$catches")
  slowest=0
  for n in 1 2 3 4 5 6 7 8; do
    took=$(interrupted "$dir/mnt/cold/$(printf 'f%06d' $((readers + n)))")
    [ "$took" -le $slowest ] || slowest=$took
  done
  check "ms from Ctrl-C to the end of a waiting $who, slowest of 8" $slowest 1000
done
echo "  then: $(tail -1 "$dir/waiters")"
still=$(tail -1 "$dir/waiters" | cut -d' ' -f2)
check "readers that do not wait any more" $((readers - still)) $((readers / 5))
check "readers that failed" "$(tail -1 "$dir/waiters" | cut -d' ' -f6)" 0
begun=$(now_ms); kill -KILL $waiters; wait $waiters 2>/dev/null || true; waiters=
check "ms until all $readers readers are killed" $(($(now_ms) - begun)) 10000
read -r after_50 after_99 after_max <<<"$(cold_stat)"
echo "  idle:   p50 $after_50 us, p99 $after_99 us, longest $after_max us"
idle=$((before_99 > after_99 ? before_99 : after_99))
check "p99 of stat while they wait, us" "$in_99" $((idle * 2 > idle + 1000 ? idle * 2 : idle + 1000))
down

say "--- $archives archives queue on a tier with a delay of 2 s"
"$load" make "$dir/guard/b/many" "$archives" 1024
up "delay=2s"
# The first one reads the aggregate's index as well.
"$cairn" stage --wait -q "$dir/mnt/lone/f000002"
begun=$(now_ms); "$cairn" stage --wait -q "$dir/mnt/lone/f000000"; alone=$(($(now_ms) - begun))
begun=$(now_ms); id=$("$cairn" archive "$dir/mnt/many")
echo "  accepted in $(($(now_ms) - begun)) ms as request $id"
begun=$(now_ms)
until [ "$(field "$id" files)" -ge "$archives" ]; do
  [ $(($(now_ms) - begun)) -lt 300000 ] || { say "the directory is not walked"; exit 1; }
  sleep 0.2
done
echo "  all $archives are queued after $(($(now_ms) - begun)) ms; done by now: $(field "$id" files_done)"
begun=$(now_ms); "$cairn" stage --wait -q "$dir/mnt/lone/f000001"; behind=$(($(now_ms) - begun))
queued=$((archives - $(field "$id" files_done)))
echo "  a stage took $alone ms alone, $behind ms behind $queued queued archives"
check "still queued then; finished" $((archives - queued)) $((archives / 2))
check "ms that the queue delays a stage" $((behind - alone)) 1000
started() { find "$dir/tier" -type f -printf '%f\n' | grep -o '^e[^.]*' | sort -u; }
echo "  before the cancel: $(field "$id" files_done) done"
begun=$(now_ms); "$cairn" cancel "$id" >/dev/null & cancelling=$!
sleep 1; started >"$dir/at_once"
wait $cancelling; echo "  the cancel was confirmed after at most $(($(now_ms) - begun)) ms; $(field "$id" files_done) done"
sleep 8; started >"$dir/later"
check "aggregates begun later than a second after the cancel was asked for" "$(comm -13 "$dir/at_once" "$dir/later" | wc -l)" 0
echo "  the request: $(field "$id" state), $(field "$id" files_done) done of $(field "$id" files)"
down
finish
