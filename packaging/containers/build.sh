#!/usr/bin/env bash
# Makes the container images of a `cairn` that was built: nothing is pulled from anywhere. An image holds the program, the
# shared libraries that it names, and no shell.
#
#   packaging/containers/build.sh target/release/cairn client localhost/cairn-client
#   packaging/containers/build.sh target/release/cairn server localhost/cairn-server
#
# ENGINE: podman (default) or docker. ONLY_CONTEXT=DIR: fills that directory and builds nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=${1:?the program}
kind=${2:?client or server}
image=${3:?the image\'s name}
[ -f "$here/Containerfile.$kind" ] || { echo "build.sh: no Containerfile.$kind: client or server" >&2; exit 2; }
[ -x "$program" ] || { echo "build.sh: no program at $program: cargo build --release" >&2; exit 2; }

if [ -n "${ONLY_CONTEXT:-}" ]; then
  context=$ONLY_CONTEXT
  mkdir -p "$context"
else
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
fi
root=$context/root
# The system's own layout: libraries are found where the loader looks.
mkdir -p "$root"/usr/{bin,lib,lib64} "$root"/{etc,tmp,run,data,state,guarded/backing,mount}
for merged in bin lib lib64; do ln -sfn "usr/$merged" "$root/$merged"; done
chmod 1777 "$root/tmp"
# Users of the mount must not reach what lies below it.
chmod 700 "$root/guarded"
# Without what a debugger wants it is a tenth of its size.
strip -o "$root/usr/bin/cairn" "$program" 2>/dev/null || cp "$program" "$root/usr/bin/cairn"
chmod 755 "$root/usr/bin/cairn"
# `hsi` and `htar` are the same program.
ln -sf cairn "$root/usr/bin/hsi"
ln -sf cairn "$root/usr/bin/htar"
# A static program names none.
{ ldd "$program" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
# Who is who: the server acts for users whom the host knows; bind the host's files over these.
printf 'root:x:0:0:root:/:/usr/bin/cairn\n' > "$root/etc/passwd"
printf 'root:x:0:\n' > "$root/etc/group"
# Authorities that vouch for a server, and for S3.
for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
  if [ -f "$bundle" ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp -L "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    break
  fi
done
cp "$here/Containerfile.$kind" "$context/Containerfile"
[ -z "${ONLY_CONTEXT:-}" ] || exit 0
"${ENGINE:-podman}" build -q -t "$image" -f "$context/Containerfile" "$context"
