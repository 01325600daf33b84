#!/usr/bin/env bash
# 20,000 files and more: archived, changed, snapshotted at a stop; the backing deleted, restored from the
# tier alone, mounted, read back; and the difference from what was there at the snapshot.
source "$(dirname "$0")/rig.bash"
requires 4 rsync tar split setfacl
begin
FILES=${FILES:-20000}
for ((d = 0; d < FILES / 1000; d++)); do
  mkdir -p "$original/set-$((d % 5))/$d"
  head -c 2048000 /dev/urandom | split -b 2048 -d -a 3 - "$original/set-$((d % 5))/$d/f"
done
head -c 50000000 /dev/urandom > "$original/large"
ln "$original/large" "$original/set-0/large-too"
ln -s ../nowhere "$original/set-1/soft"
setfacl -m u:1234:rx "$original/set-2"
read -r files bytes < <(count "$original")
echo "$files files of $bytes bytes; $(nproc) processors"

up
step "rsync -aHAXS into the mount" "$files" "$bytes" rsync -aHAXS "$original/" "$mount/"
step "archive" "$files" "$bytes" archive
down
up
# Renames, overwrites, modes, unlinks.
mv "$mount/set-3" "$mount/set-0/moved"
mv "$mount/set-4/4/f000" "$mount/set-1/renamed"
head -c 100000 /dev/urandom > "$mount/set-2/2/f001"
chmod 4711 "$mount/set-2/2/f002"
chown 4321:1234 "$mount/set-2/2/f003"
rm -r "$mount/set-0/0"
step "archive what changed" 1 100000 archive
# What it is to be compared with: a copy that is no archive.
rsync -aHAXS --delete "$mount/" "$original/"
step "down, with what changed of the namespace" "$files" "$bytes" down

step "the backing is gone" "$files" "$bytes" rm -rf "$backing"
"$CAIRN_BIN" restore --tier "dir:$tier" --list
restored=$work/guarded/new
# As if the lost machine had been quiet for long: a tier that was just written to changes hands for nobody.
touch -d '1 hour ago' "$tier/incoming"
step "restore" "$files" "$bytes" "$CAIRN_BIN" restore --tier "dir:$tier" --to "$restored" --state "$work/state-2" --take
backing=$restored state=$work/state-2
export CAIRN_SOCKET=$state/run/control.sock
up
drop_caches
echo "difference in names and attributes:"
difference=$(rsync -aHAXn --itemize-changes --delete "$original/" "$mount/")
[ -z "$difference" ] || fail "$(head -n 20 <<<"$difference")"
echo "difference in data, after recall of all:"
difference=$(rsync -aHAXnc --itemize-changes --delete "$original/" "$mount/")
[ -z "$difference" ] || fail "$(head -n 20 <<<"$difference")"
down
echo "restore: holds"
