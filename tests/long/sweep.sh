#!/usr/bin/env bash
# Every call of every verb that changes something on a disk fails once, in every way: some
# eighteen thousand runs on the release program, with the negative controls. Hours; CAIRN_SWEEP=kinds takes one
# call of each kind. CAIRN_SWEEP_VERBS, CAIRN_SWEEP_BACKING (ext4, xfs), CAIRN_SWEEP_SEED and
# CAIRN_SWEEP_JOBS may be set.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
  echo "needs root and /dev/fuse"; exit 77
fi
cargo build --release --locked --bin cairn
export CAIRN_BIN=$PWD/target/release/cairn CAIRN_SWEEP=${CAIRN_SWEEP:-all}
cargo test --locked --test sweep -- --nocapture --test-threads 1
