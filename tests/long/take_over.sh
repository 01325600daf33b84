#!/usr/bin/env bash
# A mount that does not die: under untar, diff -r, rm -r, a build-like load, a file without a name
# and an mmap reader at once, the server is killed (kill -9) and upgraded; no error is allowed.
# usage: take_over.sh [KILLS] [UPGRADES]      (default 100 and 20)
. "$(dirname "$0")/rig.bash"
kills=${1:-100} upgrades=${2:-20}
requires 4 tar diff python3
begin

tree=$work/original/tree
mkdir -p "$tree"
for part in src fuse/src tests docs policies mover; do
  mkdir -p "$tree/$part"
  cp -a "$part/." "$tree/$part/"
done
tar -C "$work/original" -cf "$work/source.tar" tree

again() { # again: the same command, which goes on with the mount
  up --hold 120s
}
again
python3 "$here/take_over.py" "$work/source.tar" "$mount" "$work/stop" > "$work/report" 2>&1 &
load=$!
pid_of() { cairn status --json | python3 -c 'import json,sys; d = json.load(sys.stdin); print(d.get("data", d)["pid"])'; }
longest=0 killed=0 upgraded=0 total=$((kills + upgrades))
for ((turn = 1; turn <= total; turn++)); do
  kill -0 $load 2>/dev/null || break
  sleep "0.$((RANDOM % 9))"
  begun=$(date +%s%N)
  # Spread evenly among the kills.
  if [ $((turn * upgrades / total)) -gt $(((turn - 1) * upgrades / total)) ]; then
    cairn upgrade "$mount" 2>> "$work/up.log" || fail "upgrade $((upgraded + 1)) of $upgrades"
    cairn_pid=$(pid_of)
    upgraded=$((upgraded + 1))
  else
    kill -KILL "$cairn_pid"
    wait "$cairn_pid" 2>/dev/null || true
    again
    killed=$((killed + 1))
  fi
  took=$((($(date +%s%N) - begun) / 1000000))
  [ $took -le $longest ] || longest=$took
done
touch "$work/stop"
failed=0
wait $load || failed=1
echo "$killed kill -9 and $upgraded upgrades; the longest until the next server was ready: $longest ms"
cat "$work/report"
[ $failed = 0 ] || fail "the work met errors"
[ $killed = "$kills" ] && [ $upgraded = "$upgrades" ] || fail "not all kills and upgrades were made"
same "$tree" "$mount/still/tree"
cairn down "$mount" > /dev/null
cairn_pid=
