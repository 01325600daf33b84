#!/usr/bin/env bash
# The program of an earlier commit is replaced by this one under load (untar, diff -r, rm -r, a build-like load, mappings,
# and readers whose released files come back meanwhile): no read may fail, and every byte must be right. With a change
# of the catalog's schema between the two, that is carried out on the way.
# usage: upgrade.sh [ROUNDS]      (default 3)
# CAIRN_OLD: the earlier program (default: the one of the commit before, built in a directory of its own; OLD_COMMIT
# names another).
. "$(dirname "$0")/rig.bash"
rounds=${1:-3}
requires 6 tar diff python3 git cargo
begin
new=$CAIRN_BIN
old=${CAIRN_OLD:-}
if [ -z "$old" ]; then
  git worktree add --quiet --detach "$work/old" "${OLD_COMMIT:-HEAD~1}"
  (cd "$work/old" && CARGO_TARGET_DIR=$work/target cargo build --quiet --release --locked)
  old=$work/target/release/cairn
  git worktree remove --force "$work/old"
fi
old=$(realpath "$old")
cmp -s "$old" "$new" && echo "note: both programs are the same bytes"

tree=$work/original/tree
mkdir -p "$tree"
for part in src fuse/src tests docs policies mover; do
  mkdir -p "$tree/$part"
  cp -a "$part/." "$tree/$part/"
done
tar -C "$work/original" -cf "$work/source.tar" tree
schema() { python3 -c 'import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute("PRAGMA user_version").fetchone()[0])' "$state/catalog.sqlite"; }

one_round() {
  local cold=$work/original/cold load readers n failed=0 before
  CAIRN_BIN=$old
  up --hold 120s
  mkdir "$cold"
  for n in $(seq 400); do head -c 200000 /dev/urandom > "$cold/$n"; done
  cp -a "$cold" "$mount/cold"
  cairn archive --wait -q "$mount/cold"
  cairn release --wait -q "$mount/cold"
  before=$(schema)
  rm -f "$work/stop"
  python3 "$here/take_over.py" "$work/source.tar" "$mount" "$work/stop" > "$work/report" 2>&1 &
  load=$!
  # Each reads every released file once, and a hundred of them side by side.
  for n in $(seq 400); do echo "$n"; done | xargs -P 8 -I{} sh -c 'sleep 0.0$(({} % 10)); cmp "$1/{}" "$2/{}"' _ "$cold" "$mount/cold" \
    > "$work/compared" 2>&1 &
  readers=$!
  sleep 0.5
  "$new" upgrade "$mount" 2>> "$work/up.log" || fail "the upgrade"
  CAIRN_BIN=$new
  cairn_pid=$(cairn status --json | python3 -c 'import json,sys; d = json.load(sys.stdin); print(d.get("data", d)["pid"])')
  wait $readers || { cat "$work/compared"; fail "a released file read differently"; }
  sleep 2
  touch "$work/stop"
  wait $load || failed=1
  cat "$work/report"
  [ $failed = 0 ] || fail "the work met errors"
  [ ! -s "$work/compared" ] || fail "$(head "$work/compared")"
  same "$cold" "$mount/cold"
  same "$tree" "$mount/still/tree"
  echo "schema $before became $(schema); 400 released files read across the upgrade, none failed"
  cairn down "$mount" > /dev/null
  cairn_pid=
  rm -rf "$state" "$work/unpacked" "$cold"
  clear_away "$backing"; clear_away "$tier"
  mkdir "$backing" "$tier"
}
for ((round = 1; round <= rounds; round++)); do
  echo "== round $round of $rounds"
  one_round
done
echo "upgrade: holds"
