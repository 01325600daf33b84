# What the long scripts share: an instance over temporary directories, measured steps, and an end
# that leaves no mount, process or file behind. Sourced, not run.
#
# CAIRN_BIN: the program (default target/release/cairn). TMPDIR: where to work (default /var/tmp).
# KEEP=1 keeps the directory for a look afterwards.

set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
CAIRN_BIN=$(realpath "${CAIRN_BIN:-target/release/cairn}")
here=$PWD/tests/long
cairn_pid=

skip() { echo "SKIPPED $(basename "$0"): $*"; exit 77; }
fail() {
  echo "FAILED $(basename "$0"): $*" >&2
  [ -s "${work:-/nonexistent}/up.log" ] && { echo "--- last lines of the instance's log" >&2; tail -n 20 "$work/up.log" >&2; }
  exit 1
}

# requires GIB TOOL...: leaves the script, saying why, where it cannot run.
requires() {
  local gib=$1 tool; shift
  [ "$(id -u)" = 0 ] || skip "needs root: it looks below the mount and drops caches"
  [ -c /dev/fuse ] || skip "needs /dev/fuse"
  [ -x "$CAIRN_BIN" ] || skip "no program at $CAIRN_BIN (cargo build --release, or set CAIRN_BIN)"
  for tool; do command -v "$tool" >/dev/null || skip "needs $tool"; done
  local base=${TMPDIR:-/var/tmp} free
  free=$(df --output=avail -k "$base" | tail -n 1)
  [ "$free" -ge $((gib << 20)) ] || skip "needs $gib GiB free in $base"
}

# Directories: work, original (what users had), backing, mount, tier, state.
begin() {
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-long-XXXXXX")
  trap finish EXIT
  trap 'exit 130' INT TERM HUP
  chmod 755 "$work"
  mkdir -m 700 "$work/guarded"
  original=$work/original backing=$work/guarded/backing mount=$work/mount tier=$work/tier state=$work/state
  mkdir "$original" "$backing" "$mount" "$tier"
  export CAIRN_SOCKET=$state/run/control.sock
}

finish() {
  local code=$?
  trap - EXIT
  if [ -n "$cairn_pid" ]; then
    cairn down --force "$mount" >/dev/null 2>&1 || kill -TERM "$cairn_pid" 2>/dev/null || true
    local tries=0
    while kill -0 "$cairn_pid" 2>/dev/null && [ $((tries += 1)) -lt 600 ]; do sleep 0.1; done
    kill -KILL "$cairn_pid" 2>/dev/null || true
  fi
  while mountpoint -q "$mount" && umount -l "$mount"; do :; done
  if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else clear_away "$work"; fi
  exit "$code"
}

# Removes a tree, several of its branches at a time: hundreds of thousands of unlinks one after the other
# can take longer than all the rest where the filesystem discards blocks.
clear_away() {
  find "$1" -mindepth 2 -maxdepth 3 -type d -print0 2>/dev/null | xargs -0 -r -P 16 -n 1 rm -rf
  rm -rf "$1"
}

cairn() { "$CAIRN_BIN" "$@"; }

# The tier is a directory, unless tier_url is set.
up() { # up [ARGUMENT]...
  : > "$work/ready"
  "$CAIRN_BIN" up --allow-same-fs --state "$state" --tier "${tier_url:-disk=dir:$tier}" "$@" "$backing" "$mount" \
    > "$work/ready" 2>> "$work/up.log" < /dev/null &
  cairn_pid=$!
  local tries=0
  until grep -q ready "$work/ready"; do
    kill -0 "$cairn_pid" 2>/dev/null || fail "cairn up ended before it was ready"
    [ $((tries += 1)) -lt 600 ] || fail "cairn up was not ready within a minute"
    sleep 0.1
  done
}

down() {
  cairn down "$mount" > /dev/null
  wait "$cairn_pid" || fail "cairn up ended with $?"
  cairn_pid=
}

drop_caches() { sync; echo 3 > /proc/sys/vm/drop_caches; }

# step NAME FILES BYTES COMMAND...: runs it, and prints how long it took and at what rate.
step() {
  local name=$1 files=$2 bytes=$3 begun ended; shift 3
  begun=$(date +%s%N)
  "$@" || fail "$name"
  ended=$(date +%s%N)
  awk -v name="$name" -v files="$files" -v bytes="$bytes" -v s=$(((ended - begun) / 1000000)) 'BEGIN {
    s = s > 0 ? s / 1000 : 0.001
    printf "%-44s %8.1f s  %9.0f files/s  %8.1f MB/s\n", name, s, files / s, bytes / s / 1e6 }'
}

# Regular files and bytes of a tree, each inode once.
count() {
  find "$1" -type f -printf '%i %s\n' | sort -u | awk '{ n++; b += $2 } END { printf "%d %.0f\n", n, b }'
}

# Bytes on disk of regular files, each inode once. blocks_of TREE FIND-TEST...
blocks_of() {
  local tree=$1; shift
  find "$tree" -type f "$@" -printf '%i %b\n' | sort -u | awk '{ b += $2 } END { printf "%.0f\n", b * 512 }'
}

# same ORIGINAL OTHER [RSYNC-OPTION]...: every byte and attribute, or the differences.
same() {
  local from=$1 to=$2; shift 2
  rsync -aHAXSnic --delete "$@" "$from/" "$to/" > "$work/differences" || fail "rsync could not compare $to"
  if [ -s "$work/differences" ]; then
    head -n 20 "$work/differences" >&2
    fail "$(wc -l < "$work/differences") differences between $from and $to"
  fi
}

# What tar would back up since a snapshot: every file, no directories (tar lists those always).
changed_since() { # changed_since SNAPSHOT TREE
  cp "$1" "$work/snapshot"
  tar --listed-incremental="$work/snapshot" -C "$2" -cvf /dev/null . 2>"$work/tar.err" | { grep -v '/$' || true; }
}

unchanged_since() {
  local found
  found=$(changed_since "$1" "$mount" | head -n 20)
  [ -z "$found" ] || fail "tar --listed-incremental finds changed $3: $found"
}

archive() { cairn archive --wait -q "$mount"; }
release() { cairn release --wait -q "$mount"; }

# released_below PERCENT: what is left on disk of files of 64 KiB and more, against `resident`.
released_below() {
  local left=$(blocks_of "$backing" -size +65535c)
  awk -v left="$left" -v was="$resident" -v bound="$1" 'BEGIN {
    printf "%-44s %8.2f %% of %.0f MB\n", "left on disk of files of 64 KiB and more", 100 * left / was, was / 1e6
    exit !(100 * left < bound * was) }' || fail "blocks were not released"
}

# Both tars, without Cairn: all aggregates into an empty directory, compared with the original.
restores_plainly() {
  local tool files bytes
  read -r files bytes < <(count "$original")
  for tool in tar bsdtar; do
    if ! command -v $tool >/dev/null; then echo "SKIPPED restore by $tool: not installed"; continue; fi
    mkdir "$work/restored"
    step "plain restore by $tool" "$files" "$bytes" bash "$here/plain_restore" $tool "$tier" "$work/restored"
    # docs/format.md: bsdtar leaves the time of the directory that was there before.
    [ $tool = tar ] || touch -r "$original" "$work/restored"
    same "$original" "$work/restored"
    clear_away "$work/restored"
  done
}
