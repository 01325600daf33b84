#!/usr/bin/env bash
# A tree of real and odd files through everything: copied into a mount, archived, released, read back
# cold, copied while released by the usual tools, and restored from the tier by plain tar.
#
# FILES and BYTES (default 20000 and 2 GiB) are lower bounds; a quick look may set them lower.
source "$(dirname "$0")/rig.bash"
requires 16 rsync tar setfacl python3
begin
FILES=${FILES:-20000} BYTES=${BYTES:-2147483648}
[ "$FILES" -ge 20000 ] && [ "$BYTES" -ge 2147483648 ] || echo "a smaller tree than the claim is about"

# Real files, from whatever this machine has, until there are enough.
gather() {
  local source rust n=0 files=0 bytes=0
  rust=$(rustc --print sysroot 2>/dev/null || echo /usr/lib)
  mkdir "$original/real"
  for source in "$rust"/lib /usr/lib/*-linux-gnu* /usr/bin /usr/lib/* /usr/share/* /usr/include/* /usr/local /opt; do
    [ -d "$source" ] && [ ! -L "$source" ] || continue
    rsync -aHAXSx "$source" "$original/real/$((n += 1))"
    read -r files bytes < <(count "$original")
    [ "$files" -ge "$FILES" ] && [ "$bytes" -ge "$BYTES" ] && return
  done
  skip "this machine has only $files files of $bytes bytes to take"
}
gather
mkdir "$original/odd"
python3 "$here/odd_tree" "$original/odd"
read -r files bytes < <(count "$original")
everything=$(find "$original" -printf . | wc -c)
stored=$(blocks_of "$original")
echo "$files files ($everything names) of $bytes bytes, $stored of them on disk; $(nproc) processors"

up
step "rsync -aHAXS into the mount" "$files" "$stored" rsync -aHAXS "$original/" "$mount/"
sync
resident=$(blocks_of "$backing" -size +65535c)
sleep 1.1 # tar compares with the second at which it began
tar --listed-incremental="$work/level0" -C "$mount" -cf /dev/null . 2>/dev/null
step "archive" "$files" "$stored" archive
unchanged_since "$work/level0" "$mount" "after archive"
large=$(find "$original" -type f -size +65535c -printf '%i\n' | sort -u | wc -l)
step "release (files of 64 KiB and more)" "$large" "$resident" release
released_below 5
drop_caches
unchanged_since "$work/level0" "$mount" "after release"
released_below 5 # looking was no reading

step "recall by reading, one reader (rsync -c)" "$files" "$stored" same "$original" "$mount"
drop_caches
unchanged_since "$work/level0" "$mount" "after recall"
step "read again, resident and cold" "$files" "$stored" same "$original" "$mount"

# The comparison itself can see: one byte, one time.
victim=$(find "$mount/real" -type f -size +65535c -print -quit)
touch "$victim"
[ "$(changed_since "$work/level0" "$mount" | wc -l)" = 1 ] || fail "tar does not see a file that was touched"
touch -r "$original/${victim#"$mount/"}" "$victim"

copied_released() { # copied_released NAME COMMAND...: into $work/copy
  local name=$1; shift
  archive
  release
  released_below 5
  drop_caches
  mkdir "$work/copy"
  step "$name of the released tree" "$files" "$stored" "$@"
  same "$original" "$work/copy"
  clear_away "$work/copy"
}
copied_released "cp -a" cp -a "$mount/." "$work/copy/"
by_tar() {
  local flags=(--xattrs '--xattrs-include=*' --acls --numeric-owner)
  tar "${flags[@]}" -S -C "$mount" -cf - . 2>"$work/tar.err" | tar "${flags[@]}" -C "$work/copy" -xpf - ||
    { grep -v 'socket ignored' "$work/tar.err" | head -n 20 >&2; return 1; }
}
copied_released "tar -S" by_tar
copied_released "rsync -S" rsync -aHAXS "$mount/" "$work/copy/"
down

restores_plainly
echo "real_tree: holds"
