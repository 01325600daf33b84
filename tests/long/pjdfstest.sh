#!/usr/bin/env bash
# pjdfstest through the mount and on the directory below, on ext4 and on XFS, as root: the verdict of every case must be
# the same. What the filesystem itself gets wrong (pjdfstest marks such cases TODO) the mount has to get wrong too.
#
#   PJDFSTEST_DIR=/somewhere/pjdfstest tests/long/pjdfstest.sh [TEST-DIRECTORY]...      (chown, rename, ...; default all)
#
# https://github.com/pjd/pjdfstest, built in its own place: autoreconf -ifs && ./configure && make pjdfstest
# MIRROR: the program that mounts (default target/release/examples/mirror). FILESYSTEMS (default "xfs ext4").

set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
skip() { echo "SKIPPED $(basename "$0"): $*"; exit 77; }
mirror=$(realpath "${MIRROR:-target/release/examples/mirror}")
suite=${PJDFSTEST_DIR:-}
[ -n "$suite" ] || skip "PJDFSTEST_DIR is not set"
suite=$(realpath "$suite")
[ -x "$suite/pjdfstest" ] || skip "no program $suite/pjdfstest: build it there"
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "needs /dev/fuse"
[ -x "$mirror" ] || skip "no program at $mirror (cargo build --release -p cairn-fuse --examples)"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-pjdfstest-XXXXXX")
images=$(mktemp -d "${IMAGES:-/dev/shm}/cairn-pjdfstest-XXXXXX")
chmod 755 "$work"
mkdir "$work/disk" "$work/mount"
server=
unmount() {
  local tries=0
  cd "$work"
  while mountpoint -q "$work/mount" && ! umount "$work/mount" && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
  if [ -n "$server" ]; then wait "$server" || true; server=; fi
  tries=0
  while mountpoint -q "$work/disk" && ! umount "$work/disk" && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
}
finish() {
  local code=$?
  trap - EXIT
  mountpoint -q "$work/mount" && umount -l "$work/mount"
  unmount
  rm -rf --one-file-system "$work" "$images"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# run FILESYSTEM WHERE: all verdicts into $work/FILESYSTEM-WHERE, a line a case.
run() {
  local fs=$1 where=$2 at=$work/disk/data test name
  truncate -s 1G "$images/disk"
  "mkfs.$fs" -q "$images/disk" || mkfs."$fs" -q -f "$images/disk"
  mount -o loop "$images/disk" "$work/disk"
  mkdir -m 755 "$work/disk/data"
  if [ "$where" = mount ]; then
    at=$work/mount
    "$mirror" "$work/disk/data" "$at" > "$work/mirror.log" 2>&1 &
    server=$!
    local tries=0
    until mountpoint -q "$at"; do
      [ $((tries += 1)) -lt 600 ] || { cat "$work/mirror.log" >&2; exit 1; }
      sleep 0.1
    done
  fi
  # The suite asks df for the type, and leaves out what it does not expect of that type: the same on both sides.
  mkdir -p "$work/bin"
  printf '#!/bin/sh\necho "disk %s 0 0 0 0 /"\n' "$fs" > "$work/bin/df"
  chmod +x "$work/bin/df"
  cd "$at"
  for name in "${wanted[@]}"; do
    for test in "$suite/tests/$name"/*.t; do
      # A test that dies half-way lacks cases, which is a difference.
      { PATH=$work/bin:$PATH timeout 900 sh "$test" 2>&1 || true; } \
        | sed -nE "s|^(not )?ok ([0-9]+).*|$name/$(basename "$test") \\2 \\1ok|p"
    done
  done > "$work/$fs-$where"
  unmount
  rm -f "$images/disk"
}

wanted=("$@")
if [ $# = 0 ]; then
  for dir in "$suite"/tests/*/; do wanted+=("$(basename "$dir")"); done
fi
differ=0
for fs in ${FILESYSTEMS:-xfs ext4}; do
  if ! command -v "mkfs.$fs" > /dev/null; then echo "SKIPPED $fs: no mkfs.$fs"; continue; fi
  run "$fs" disk
  run "$fs" mount
  cases=$(wc -l < "$work/$fs-disk")
  [ "$cases" -gt 0 ] || { echo "FAILED: no case ran on $fs" >&2; exit 1; }
  if diff "$work/$fs-disk" "$work/$fs-mount" > "$work/differences"; then
    echo "$fs: $cases cases, $(grep -c ' not ok$' "$work/$fs-disk" || true) that $fs itself fails; no difference through the mount"
  else
    echo "$fs: $cases cases; through the mount (>) it differs from the disk (<):"
    cat "$work/differences"
    differ=1
  fi
done
exit $differ
