#!/usr/bin/env bash
# Two million inodes that the kernel knows at once, in a process that may have 4096 descriptors: the mirror alone, and
# all of Cairn. Prints descriptors and memory; fails above 4096 or 1 GiB.
#
#   tests/long/inodes.sh        INODES (default 2000000), MIRROR (default target/release/examples/mirror),
#                               CAIRN_BIN (default target/release/cairn; that half is skipped without it)

set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
skip() { echo "SKIPPED $(basename "$0"): $*"; exit 77; }
fail() { echo "FAILED $(basename "$0"): $*" >&2; exit 1; }
mirror=$(realpath "${MIRROR:-target/release/examples/mirror}")
cairn=$(realpath "${CAIRN_BIN:-target/release/cairn}")
inodes=${INODES:-2000000}
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "needs /dev/fuse"
[ -x "$mirror" ] || skip "no program at $mirror (cargo build --release -p cairn-fuse --examples)"
command -v mkfs.xfs > /dev/null || skip "needs mkfs.xfs"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-inodes-XXXXXX")
image=$(mktemp "${IMAGES:-/dev/shm}/cairn-inodes-XXXXXX")
server=
finish() {
  local code=$? tries=0
  trap - EXIT
  while mountpoint -q "$work/mount" && umount -l "$work/mount"; do :; done
  if [ -n "$server" ]; then
    while kill -0 "$server" 2> /dev/null && [ $((tries += 1)) -lt 600 ]; do sleep 0.1; done
    kill -KILL "$server" 2> /dev/null || true
  fi
  tries=0
  while mountpoint -q "$work/disk" && ! umount "$work/disk" && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
  rm -rf --one-file-system "$work"
  rm -f "$image"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

mkdir "$work"/{disk,mount,state,tier}
truncate -s 12G "$image"
mkfs.xfs -q -f -i maxpct=50 "$image"
mount -o loop "$image" "$work/disk"
mkdir -p -m 700 "$work/disk/guarded"
mkdir "$work/disk/guarded/data"
# One inode a name: directories cost what files do, and `mkdir` makes them by the thousand in one process.
for ((i = 0; i < inodes; i += 10000)); do
  mkdir "$work/disk/guarded/data/$i"
  (cd "$work/disk/guarded/data/$i" && seq $(((inodes - i) < 10000 ? inodes - i : 10000)) | xargs -n 5000 touch)
done

# measure NAME COMMAND...: mounts, looks all inodes up, keeps them known, and reads what the server holds.
measure() {
  local name=$1 tries=0 seen known descriptors memory; shift
  (ulimit -n 4096; exec "$@") > "$work/log" 2>&1 < /dev/null &
  server=$!
  until mountpoint -q "$work/mount"; do
    kill -0 "$server" 2> /dev/null || { cat "$work/log" >&2; fail "$name ended"; }
    [ $((tries += 1)) -lt 1200 ] || fail "$name does not mount"
    sleep 0.1
  done
  local before=$(awk '/VmRSS/ { print $2 }' "/proc/$server/status")
  # With attributes: names alone would make the server know nothing.
  seen=$(find "$work/mount" -mindepth 2 -printf '%i %s\n' | wc -l)
  [ "$seen" = "$inodes" ] || fail "$name: $seen inodes of $inodes"
  descriptors=$(find "/proc/$server/fd" -mindepth 1 | wc -l)
  memory=$(awk '/VmHWM/ { print $2 }' "/proc/$server/status")
  printf '%-12s %9d inodes  %5d descriptors  %7.1f MiB at most  %4d bytes an inode\n' "$name" "$inodes" "$descriptors" \
    "$((memory / 1024))" "$(((memory - before) * 1024 / inodes))"
  # What the kernel has forgotten again (somebody drops caches, or memory is short) tells nothing.
  known=$(awk '/^fuse_inode / { print $2 }' /proc/slabinfo)
  [ "$known" -ge "$inodes" ] || fail "$name: the kernel knows $known inodes only; a quiet machine is needed"
  [ "$descriptors" -le 4096 ] || fail "$name: too many descriptors"
  [ "$memory" -lt $((1 << 20)) ] || fail "$name: 1 GiB or more"
  umount "$work/mount"
  wait "$server" || fail "$name ended with $?: $(tail -n 3 "$work/log")"
  server=
}

measure mirror "$mirror" "$work/disk/guarded/data" "$work/mount"
if [ -x "$cairn" ]; then
  measure cairn "$cairn" up --allow-same-fs --state "$work/state" --tier "disk=dir:$work/tier" \
    "$work/disk/guarded/data" "$work/mount"
else
  echo "SKIPPED cairn: no program at $cairn"
fi
