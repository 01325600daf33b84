#!/usr/bin/env bash
# 100,000 files of 1 KiB: copied into a mount, archived (and kept: releasing them frees nothing
# worth it), read back cold, and restored from the tier by plain tar.
source "$(dirname "$0")/rig.bash"
requires 4 rsync tar split
begin
FILES=${FILES:-100000}
for ((d = 0; d < FILES / 1000; d++)); do
  mkdir "$original/$d"
  head -c 1024000 /dev/urandom | split -b 1024 -d -a 3 - "$original/$d/f"
done
read -r files bytes < <(count "$original")
echo "$files files of $bytes bytes; $(nproc) processors"

up
step "rsync -aHAXS into the mount" "$files" "$bytes" rsync -aHAXS "$original/" "$mount/"
sync
resident=$(blocks_of "$backing")
sleep 1.1
tar --listed-incremental="$work/level0" -C "$mount" -cf /dev/null . 2>/dev/null
step "archive" "$files" "$bytes" archive
step "archive again (nothing to do)" "$files" "$bytes" archive
step "release (nothing is large enough)" "$files" "$bytes" release
[ "$(blocks_of "$backing")" -ge "$resident" ] || fail "small files were released"
[ "$(cairn state "$mount/0/f000" | grep -c archived)" = 1 ] || fail "not archived: $(cairn state "$mount/0/f000")"
drop_caches
unchanged_since "$work/level0" "$mount" "after archive"
step "read back cold (rsync -c)" "$files" "$bytes" same "$original" "$mount"
down

restores_plainly
echo "small_files: holds"
