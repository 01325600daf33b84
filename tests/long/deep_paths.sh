#!/usr/bin/env bash
# Paths longer than PATH_MAX: archived, released, read back; bsdtar restores them without Cairn
# (but for the attributes of directories that deep), and GNU tar, which cannot, says so by name and
# restores the rest (docs/format.md).
source "$(dirname "$0")/rig.bash"
requires 1 tar python3 bsdtar
begin
up
python3 "$here/odd_tree" "$mount" deep
echo beside > "$mount/beside"

# Every file's sum and place, by relative steps.
sums() {
  python3 - "$1" <<'PYTHON'
import hashlib, os, sys
def walk(fd, path):
    for name in sorted(os.listdir(fd)):
        if os.path.stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            walk(below, path + "/" + name)
            os.close(below)
        else:
            file = os.open(name, os.O_RDONLY, dir_fd=fd)
            with os.fdopen(file, "rb") as f:
                print(hashlib.sha256(f.read()).hexdigest(), path + "/" + name)
walk(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), "")
PYTHON
}
sums "$mount" > "$work/before"
[ "$(tail -n 1 "$work/before" | wc -c)" -gt 0 ] || fail "nothing was made"
awk '{ if (length($2) > 4096) deep++ } END { exit !deep }' "$work/before" || fail "no path is beyond PATH_MAX"
resident=$(blocks_of "$backing" -size +65535c)
archive
release
released_below 10
drop_caches
sums "$mount" | cmp - "$work/before" || fail "read back otherwise"
down

mkdir "$work/by-bsdtar" "$work/by-tar"
if ! bash "$here/plain_restore" bsdtar "$tier" "$work/by-bsdtar" 2> "$work/tar.err"; then
  # Owner, mode and time of directories that deep, and nothing else.
  others=$(grep -av "Can't set user=\|Error exit delayed" "$work/tar.err" | head -c 500 || true)
  [ -z "$others" ] || fail "bsdtar failed otherwise: $others"
fi
sums "$work/by-bsdtar" | cmp - "$work/before" || fail "bsdtar restored otherwise"
if ! bash "$here/plain_restore" tar "$tier" "$work/by-tar" 2> "$work/tar.err"; then
  others=$(grep -av 'File name too long\|Exiting with failure status' "$work/tar.err" | tail -c 500 || true)
  [ -z "$others" ] || fail "tar failed otherwise: $others"
  awk 'length($2) < 4000' "$work/before" > "$work/short"
  sums "$work/by-tar" > "$work/restored"
  if grep -vxFf "$work/restored" "$work/short"; then fail "tar did not restore what it can"; fi
else
  sums "$work/by-tar" | cmp - "$work/before" || fail "tar said nothing and restored otherwise"
fi
echo "deep_paths: holds"
