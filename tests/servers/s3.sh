#!/usr/bin/env bash
# The two S3 servers that tests/conformance/s3 talks to: found by environment, in a cache directory outside
# the repository, or on PATH; else installed into that cache. Prints NAME=PATH for each, as tests read them from
# the environment:
#
#   CAIRN_TEST_MOTO   moto_server: archive classes, versions; does not look at signatures, nor at checksums
#   CAIRN_TEST_S3S    s3s-fs, or tests/servers/strict, which is its library: strict about both
#
# Usage: tests/servers/s3.sh [--find]
#   --find: installs nothing; fails if one is missing
set -euo pipefail
strict=$(dirname "$0")/strict
moto='moto[server]==5.2.5'
# What is in the cache was built from what is here.
s3s=s3s-$(cat "$strict"/{Cargo.toml,Cargo.lock,src/main.rs} | sha256sum | cut -c 1-16)
cache=${CAIRN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn-test-servers}
how=${1:-}

say() { printf '%s\n' "$*" >&2; }

# A pyenv shim stands on PATH also where what it would start is not installed.
works() { [ -x "$1" ] && "$1" --help >/dev/null 2>&1; }

where() { # NAME CACHED PROGRAM
  local named=${!1:-} found
  if [ -n "$named" ]; then
    works "$named" && { echo "$named"; return 0; }
    say "s3.sh: $1=$named does not run"
    return 1
  fi
  works "$2" && { echo "$2"; return 0; }
  found=$(command -v "$3" || true)
  [ -n "$found" ] && works "$found" && { echo "$found"; return 0; }
  return 1
}

find_moto() { where CAIRN_TEST_MOTO "$cache/moto-5.2.5/bin/moto_server" moto_server; }
find_s3s() { where CAIRN_TEST_S3S "$cache/$s3s" s3s-fs; }

install_moto() {
  say "s3.sh: installing $moto into $cache"
  python3 -m venv "$cache/moto-5.2.5" && "$cache/moto-5.2.5/bin/pip" install --quiet "$moto" >&2
}

install_s3s() {
  say "s3.sh: building tests/servers/strict into $cache (over a minute)"
  cargo build --quiet --locked --manifest-path "$strict/Cargo.toml" --target-dir "$cache/build" >&2 &&
    mv "$cache/build/debug/cairn-test-s3s" "$cache/$s3s" && rm -rf "$cache/build"
}

mkdir -p "$cache"
# One at a time: two runs would install into one place.
exec 9>"$cache/lock"
flock 9
missing=0
for server in moto s3s; do
  name=CAIRN_TEST_${server^^}
  if ! path=$("find_$server"); then
    if [ "$how" != --find ]; then "install_$server" || say "s3.sh: $server could not be installed"; fi
    if ! path=$("find_$server"); then
      say "s3.sh: $server is missing"
      missing=1
      continue
    fi
  fi
  echo "$name=$path"
done
exit "$missing"
