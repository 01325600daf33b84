#!/usr/bin/env bash
# fsx through the mount: a million random operations on a resident file, and as many with the file archived and
# released underneath every time that fsx closes it, so that the next open has to bring it back.
#
#   XFSTESTS_DIR=/somewhere/xfstests tests/long/fsx.sh
#
# XFSTESTS_DIR: the sources (https://github.com/kdave/xfstests); ltp/fsx.c is built in a temporary directory.
# OPERATIONS (default 1000000), CLOSES (default 20000 operations between two of them on average), SEED (default the
# time, printed), MIRROR (default target/release/examples/mirror), CAIRN_BIN (default target/release/cairn).

. "$(dirname "$0")/rig.bash"
operations=${OPERATIONS:-1000000} closes=${CLOSES:-20000} seed=${SEED:-$(date +%s)}
sources=$(realpath "${XFSTESTS_DIR:-/nonexistent}" 2> /dev/null || true)
[ -f "$sources/ltp/fsx.c" ] || skip "XFSTESTS_DIR is not set to the sources of xfstests"
requires 2 cc
mirror=$(realpath "${MIRROR:-target/release/examples/mirror}")
begin

mkdir "$work/fsx"
cp "$sources/ltp/fsx.c" "$sources/src/statx.h" "$work/fsx/"
cat > "$work/fsx/global.h" <<'HEADERS'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <assert.h>
#include <getopt.h>
#include <fcntl.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <ctype.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/ioctl.h>
#include <sys/param.h>
#include <linux/falloc.h>
#include <linux/fs.h>
static inline unsigned long long rounddown_64(unsigned long long x, unsigned int y) { return x / y * y; }
static inline unsigned long long roundup_64(unsigned long long x, unsigned int y) { return (x + y - 1) / y * y; }
HEADERS
# What fsx does between close and open is ours to say.
grep -q 'system("echo 3 > /proc/sys/vm/drop_caches")' "$work/fsx/fsx.c" || skip "another fsx.c than this script knows"
sed -i 's|system("echo 3 > /proc/sys/vm/drop_caches")|system(getenv("FSX_CLOSED"))|' "$work/fsx/fsx.c"
cc -O2 -w -I"$work/fsx" -D_GNU_SOURCE -DHAVE_SYS_PRCTL_H -DFALLOCATE -DHAVE_COPY_FILE_RANGE \
  -o "$work/fsx/fsx" "$work/fsx/fsx.c" || skip "fsx does not build here"

echo "seed $seed"
run_fsx() { # run_fsx FILE
  local report
  report=$(cd "$work/fsx" && ./fsx -q -c "$closes" -S "$seed" -N "$operations" -P "$work/fsx" "$1" 2>&1) \
    || { tail -n 60 <<< "$report" >&2; fail "fsx on $1, seed $seed"; }
  tail -n 1 <<< "$report"
}

if [ -x "$mirror" ]; then
  "$mirror" "$backing" "$mount" > "$work/mirror.log" 2>&1 &
  pid=$!
  tries=0
  until mountpoint -q "$mount"; do [ $((tries += 1)) -lt 600 ] || fail "the mirror does not mount"; sleep 0.1; done
  FSX_CLOSED=: step "fsx, resident" "$operations" 0 run_fsx "$mount/resident"
  umount "$mount"
  wait $pid
else
  echo "SKIPPED fsx on a mirror alone: no program at $mirror"
fi

# Files of fsx are smaller than what is usually worth a release. A close at which the file is empty, or has no block to
# give, releases nothing; that at least some do is counted.
# The clock that stamps files has to advance before a file counts as quiet, so an archive may have to wait a tick.
cat > "$work/closed.sh" <<CLOSED
#!/bin/sh
"$CAIRN_BIN" archive --wait -q "$mount/moving" 2>> "$work/closed.log"
"$CAIRN_BIN" release --wait -q "$mount/moving" 2>> "$work/closed.log"
getfattr --only-values -n user.cairn.state "$mount/moving" >> "$work/states" 2> /dev/null
echo >> "$work/states"
exit 0
CLOSED
chmod +x "$work/closed.sh"
closes=$((operations > 100 ? operations / 100 : 1))
cat > "$work/config.toml" <<CONFIG
release-min-size = "4KiB"
min-residency = "0s"
CONFIG
up --config "$work/config.toml"
FSX_CLOSED="$work/closed.sh" step "fsx, released at every close" "$operations" 0 run_fsx "$mount/moving"
sort "$work/states" | uniq -c
grep -q released "$work/states" || fail "the file was never released"
down
