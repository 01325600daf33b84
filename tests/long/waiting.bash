# Sourced by the long tests about waiting: an instance in a temporary directory, and clocks.
# Needs: CAIRN_BIN (default target/release/cairn). Sets: dir cairn load.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cairn=$(realpath -m "${CAIRN_BIN:-$root/target/release/cairn}")
failures=0

skip() { echo "SKIPPED $(basename "$0"): $*"; exit 77; }
say() { printf '%s %s\n' "$(date +%T)" "$*"; }
# check WHAT VALUE LIMIT: VALUE (an integer) must not be above LIMIT.
check() {
  if [ "$2" -le "$3" ]; then echo "  ok    $1: $2 (at most $3)"
  else echo "  FAILS $1: $2 (at most $3)"; failures=$((failures + 1)); fi
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# begin MIB: what is needed is there, or the test is skipped; then makes the directories.
begin() {
  [ "$(id -u)" = 0 ] || skip "needs root: it looks below the mount and drops caches"
  [ -w /dev/fuse ] || skip "/dev/fuse cannot be opened"
  [ -x "$cairn" ] || skip "$cairn is not there: cargo build --release, or set CAIRN_BIN"
  command -v rustc >/dev/null || skip "rustc is not installed: it builds the load generator"
  local base=${TMPDIR:-/var/tmp} free
  free=$(df --output=avail -m "$base" | tail -1)
  [ "$free" -ge "$1" ] || skip "$base has $free MiB free, $1 are needed"
  dir=$(mktemp -d "$base/cairn-long.XXXXXX")
  trap clean EXIT
  chmod 755 "$dir"; mkdir -m 700 "$dir/guard"; mkdir "$dir/guard/b" "$dir/mnt" "$dir/tier"
  export CAIRN_SOCKET=$dir/state/run/control.sock
  load=$dir/load
  rustc --edition 2024 -O -o "$load" "$root/tests/long/load.rs"
  ulimit -n "$(ulimit -Hn)"
}

# up OPTIONS: an instance whose tier has these URL options.
up() {
  : >"$dir/up.out"
  "$cairn" up --allow-same-fs --state "$dir/state" --tier "disk=dir:$dir/tier${1:+?$1}" \
    "$dir/guard/b" "$dir/mnt" >"$dir/up.out" 2>>"$dir/up.err" &
  instance=$!
  local end=$((SECONDS + 60))
  until grep -q ready "$dir/up.out"; do
    kill -0 $instance 2>/dev/null || { cat "$dir/up.err"; echo "cairn up ended"; exit 1; }
    [ $SECONDS -lt $end ] || { cat "$dir/up.err"; echo "cairn up is not ready"; exit 1; }
    sleep 0.1
  done
}

down() { "$cairn" down "$dir/mnt" && wait "$instance"; instance=; }

clean() {
  local status=$?
  trap - EXIT
  [ -z "${waiters:-}" ] || kill -KILL "$waiters" 2>/dev/null
  if [ -n "${instance:-}" ]; then
    [ $status = 0 ] || tail -20 "$dir/up.err"
    timeout 60 "$cairn" down --force "$dir/mnt" >/dev/null 2>&1
    kill -KILL "$instance" 2>/dev/null
    wait "$instance" 2>/dev/null
  fi
  while mountpoint -q "$dir/mnt"; do umount -l "$dir/mnt" || break; done
  rm -rf --one-file-system "$dir"
  exit $status
}

# What a request shows: field ID NAME
field() { "$cairn" requests "$1" --json | grep -o "\"$2\":[^,}]*" | head -1 | cut -d: -f2 | tr -d '"'; }

finish() {
  [ "$failures" = 0 ] || { say "$failures measurements are over their limits"; exit 1; }
  say "all hold"
}
