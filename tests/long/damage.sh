#!/usr/bin/env bash
# A thousand flipped bits and cuts on the release program: none may show as a wrong byte. Prints the
# table of docs/faults.md. CAIRN_DAMAGES and CAIRN_DAMAGE_SEED may be set. About an hour.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
  echo "needs root and /dev/fuse"; exit 77
fi
cargo build --release --locked --bin cairn
export CAIRN_BIN=$PWD/target/release/cairn CAIRN_DAMAGES=${CAIRN_DAMAGES:-1000}
cargo test --locked --test damage -- --nocapture
