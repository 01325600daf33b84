#!/usr/bin/env bash
# The two S3 servers that tests/conformance/s3 talks to: found by environment, in a cache directory outside
# the repository, or on PATH; else installed into that cache. Prints NAME=PATH for each, as tests read them from
# the environment:
#
#   CAIRN_TEST_MOTO   moto_server: archive classes, versions; does not look at signatures, nor at checksums
#   CAIRN_TEST_S3S    s3s-fs: strict about both
#
# Usage: tests/servers/s3.sh [--find|--quick]
#   --find: installs nothing; fails if one is missing
#   --quick: does not build s3s-fs (minutes); where it is not there, the tests that want it say that they are skipped
set -euo pipefail
moto='moto[server]==5.2.5'
s3s=0.14.1
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
find_s3s() { where CAIRN_TEST_S3S "$cache/s3s-fs-$s3s/bin/s3s-fs" s3s-fs; }

install_moto() {
  say "s3.sh: installing $moto into $cache"
  python3 -m venv "$cache/moto-5.2.5" && "$cache/moto-5.2.5/bin/pip" install --quiet "$moto" >&2
}

# Quickly built, and quick enough for tests; a bench wants another one.
install_s3s() {
  say "s3.sh: building s3s-fs $s3s into $cache (two minutes)"
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$cache/build" \
    cargo install --debug s3s-fs --version "$s3s" --features binary --locked --root "$cache/s3s-fs-$s3s" >&2 &&
    rm -rf "$cache/build"
}

mkdir -p "$cache"
# One at a time: two runs would install into one place.
exec 9>"$cache/lock"
flock 9
missing=0
for server in moto s3s; do
  name=CAIRN_TEST_${server^^}
  if ! path=$("find_$server"); then
    if [ "$how$server" = --quicks3s ]; then
      say "s3.sh: no s3s-fs here, and it takes minutes to build: without --quick that is done"
      continue
    fi
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
