#!/usr/bin/env bash
# Two hundred stops at random instants (eighty of them power losses) on the release program, with
# the negative control. CAIRN_CRASH_STOPS and CAIRN_CRASH_SEED may be set. About a quarter of an hour.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
  echo "needs root and /dev/fuse"; exit 77
fi
cargo build --release --locked --bin cairn
export CAIRN_BIN=$PWD/target/release/cairn CAIRN_CRASH_STOPS=${CAIRN_CRASH_STOPS:-200}
cargo test --locked --test crash -- --nocapture --test-threads 2 stops::
