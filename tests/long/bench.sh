#!/usr/bin/env bash
# Measures the mount: the directory itself, this mount and (where it is given) libfuse's passthrough_hp, each over a
# directory of its own on one XFS, in turns within one run. Prints a Markdown table for docs/benchmarks.md.
#
#   PASSTHROUGH_HP=libfuse/build/example/passthrough_hp tests/long/bench.sh [--pairs=30] [--rows=stat-cold,list] ...
#
# MODE: passthrough (default), plain (no passthrough on either side), or hsm (all of Cairn, with catalog and changelog,
# beside the mirror alone). The XFS lies on a loop image in IMAGES (default /dev/shm): the fastest disk there is, so
# the worst case for what a mount adds. BIN: where the examples are (default target/release/examples).
# passthrough_hp: meson setup build -Dexamples=true && ninja -C build example/passthrough_hp in libfuse's sources. It
# keeps a descriptor for every inode: rows with more than the hard limit of descriptors fail there (list: --entries=).

set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
skip() { echo "SKIPPED $(basename "$0"): $*"; exit 77; }
bin=$(realpath "${BIN:-target/release/examples}")
mode=${MODE:-passthrough}
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "needs /dev/fuse"
[ -x "$bin/bench" ] || skip "no programs in $bin (cargo build --release -p cairn-fuse --examples)"
for tool in mkfs.xfs git rsync tar; do command -v $tool > /dev/null || skip "needs $tool"; done

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-bench-XXXXXX")
image=$(mktemp "${IMAGES:-/dev/shm}/cairn-bench-XXXXXX")
finish() {
  local code=$? at
  trap - EXIT
  for at in mirror hp cairn; do while mountpoint -q "$work/$at" && umount -l "$work/$at"; do :; done; done
  local tries=0
  while mountpoint -q "$work/xfs" && ! umount "$work/xfs" && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
  rm -rf --one-file-system "$work"
  rm -f "$image"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

truncate -s 8G "$image"
mkfs.xfs -q -f "$image"
mkdir "$work"/{xfs,mirror,hp,cairn,state,tier}
mount -o loop "$image" "$work/xfs"
mkdir "$work"/xfs/{native,mirror,hp}
mkdir -m 700 "$work/xfs/guarded"
mkdir "$work/xfs/guarded/cairn"

plain= hp_plain=
if [ "$mode" = plain ]; then plain=--no-passthrough hp_plain=--nopassthrough; fi
sides=("native=$work/xfs/native" "mirror=$work/mirror=$bin/mirror $plain $work/xfs/mirror $work/mirror")
if [ -n "${PASSTHROUGH_HP:-}" ]; then
  hp=$(realpath "$PASSTHROUGH_HP")
  sides+=("hp=$work/hp=$hp --foreground $hp_plain $work/xfs/hp $work/hp")
else
  echo "SKIPPED passthrough_hp: PASSTHROUGH_HP is not set"
fi
if [ "$mode" = hsm ]; then
  cairn=$(realpath "${CAIRN_BIN:-target/release/cairn}")
  [ -x "$cairn" ] || skip "no program at $cairn"
  up="$cairn up --allow-same-fs --state $work/state --tier disk=dir:$work/tier $work/xfs/guarded/cairn $work/cairn"
  sides=("${sides[0]}" "cairn=$work/cairn=$up" "${sides[@]:1}")
fi
echo "mode $mode; $(uname -sr); $(nproc) cores, load $(cut -d ' ' -f 1 /proc/loadavg); XFS on a loop device in ${IMAGES:-/dev/shm}"
TMPDIR=$work "$bin/bench" "$@" "${sides[@]}"
