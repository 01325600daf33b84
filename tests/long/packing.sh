#!/usr/bin/env bash
# Packs files of 4 to 64 KiB to a directory tier and to a tape library, beside `tar cf` of the same files: in turns within
# one run, every step cold and to the end of its sync, each round over files of its own. Prints the ratios
# for docs/benchmarks.md, and the most memory that the instance had. Fails only if something is not archived.
#
#   FILES=200000 ROUNDS=3 tests/long/packing.sh
source "$(dirname "$0")/rig.bash"
FILES=${FILES:-200000} ROUNDS=${ROUNDS:-3}
requires $((FILES * 5 / 32768 + 4)) tar python3
begin

# make ROUND: FILES files of random sizes and bytes, 200 in each directory.
make() {
  python3 - "$backing" "$FILES" "$1" <<'P'
import os, random, sys
top, files, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
for n in range(files):
    at = f"{top}/{n // 200:04d}"
    if n % 200 == 0:
        os.mkdir(at)
    with open(f"{at}/{n % 200:03d}", "wb") as f:
        f.write(dice.randbytes(dice.randint(4 << 10, 64 << 10)))
P
}

# timed NAME COMMAND...: its seconds, in $work/NAME, one line a round.
timed() {
  local name=$1 begun ended; shift
  drop_caches
  begun=$(date +%s%N)
  "$@" || fail "$name"
  sync
  ended=$(date +%s%N)
  awk -v t=$((ended - begun)) 'BEGIN { printf "%.3f\n", t / 1e9 }' >> "$work/$name"
}
by_tar() { tar -cf "$work/plain.tar" -C "$backing" . && sync "$work/plain.tar"; }
to() {
  cairn archive --wait --tier "$1" "$mount" > "$work/said" 2>/dev/null
  # Directories count, too.
  local archived=$(sed -n 's/.*done: archive, \([0-9,]*\) files.*/\1/p' "$work/said" | tr -d ,)
  [ "${archived:-0}" -ge "$files" ] || fail "not all of $files files: $(cat "$work/said")"
}

for ((round = 0; round < ROUNDS; round++)); do
  make "$round"
  read -r files bytes < <(count "$backing")
  # Nothing begins by itself.
  printf 'rule archive none\n  never\n' > "$work/none.policy"
  mkdir -p "$work/library"
  up --policy "$work/none.policy" --tier "tape=tape:$work/library?speed=max"
  orders=("tar dir tape" "dir tape tar" "tape tar dir")
  for side in ${orders[round % 3]}; do
    case $side in
      tar) timed tar by_tar ;;
      dir) timed dir to disk ;;
      tape) timed tape to tape ;;
    esac
  done
  awk '/VmHWM/ { printf "%d\n", $2 / 1024 }' "/proc/$cairn_pid/status" >> "$work/memory"
  down
  echo "round $((round + 1)): $files files, $((bytes >> 20)) MiB: $(paste -d' ' "$work"/{tar,dir,tape} | tail -n 1 | awk '{ print "tar", $1, "s, dir", $2, "s, tape", $3, "s" }'), at most $(tail -n 1 "$work/memory") MiB of memory"
  for old in "$backing" "$tier" "$state" "$work/library"; do clear_away "$old"; done
  rm -f "$work/plain.tar"
  mkdir "$backing" "$tier"
done

# Medians of the rounds' ratios, with the least and the largest.
ratio() {
  paste -d' ' "$work/$1" "$work/tar" | awk '{ print $1 / $2 }' | sort -n | awk -v name="$2" '{ r[NR] = $1 } END {
    printf "| %s | %.2f [%.2f, %.2f] | %d |\n", name, r[int((NR + 1) / 2)], r[1], r[NR], NR }'
}
echo "| packing $FILES files of 4 to 64 KiB | time of \`tar cf\`, with its sync, = 1 | n |"
echo "|---|---|---|"
ratio dir "to \`dir:\`"
ratio tape "to \`tape:?speed=max\`"
echo "most memory: $(sort -n "$work/memory" | tail -n 1) MiB"
