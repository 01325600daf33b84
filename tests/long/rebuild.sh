#!/usr/bin/env bash
# The disaster drill: the catalog of an instance with many files is deleted, and built anew from the records
# on the files, from the aggregates, from both while it is killed again and again, and from aggregates where
# every record is gone, too. Each time `diff` compares its dump with that of the lost one.
#
# FILES (default 100000): how many.
source "$(dirname "$0")/rig.bash"
requires 4 python3 setfattr diff
begin
FILES=${FILES:-100000}

# Small files in directories of a hundred, some with a second name, a link, holes, or an odd name; every
# fiftieth is large enough to be released.
populate() {
  python3 - "$mount" "$FILES" <<'PY'
import os, sys
root, count = os.fsencode(sys.argv[1]), int(sys.argv[2])
for n in range(count):
    above = root + b"/%03d/%02d" % (n // 10000, n // 100 % 100)
    if n % 100 == 0:
        os.makedirs(above, exist_ok=True)
    name = above + (b"/odd \xff\n%d" % n if n % 97 == 0 else b"/f%d" % n)
    size = 65536 + n % 1000 if n % 50 == 0 else n % 700
    with open(name, "wb") as f:
        if n % 350 == 0:
            f.truncate(200000)
            f.seek(100000)
        f.write((b"%d " % n * (size // 2 + 1))[:size])
    if n % 101 == 0:
        os.link(name, name + b".second")
    if n % 103 == 0:
        os.symlink(name, name + b".link")
PY
}

# After the archive: renamed, given another mode, written anew, deleted, new ones.
mutate() {
  python3 - "$mount" "$FILES" <<'PY'
import os, sys
root, count = os.fsencode(sys.argv[1]), int(sys.argv[2])
for n in range(1, count, 41):
    path = root + b"/%03d/%02d/f%d" % (n // 10000, n // 100 % 100, n)
    if not os.path.exists(path):
        continue
    what = n % 5
    if what == 0: os.rename(path, path + b".moved")
    elif what == 1: os.chmod(path, 0o600)
    elif what == 2:
        with open(path, "wb") as f: f.write(b"written anew %d" % n)
    elif what == 3: os.unlink(path)
    else:
        with open(path + b".new", "wb") as f: f.write(b"new %d" % n)
PY
}

dump() { cairn catalog dump --state "$state" --what "$1" > "$2"; }
forget() { rm -f "$state"/catalog.sqlite*; }
rebuild() { cairn rebuild -q --state "$state" --tier "disk=dir:$tier" "$@" "$backing" > "$work/report"; }
equal() { # equal BEFORE AFTER
  diff "$1" "$2" > "$work/differences" || { head -n 20 "$work/differences" >&2; fail "$(wc -l < "$work/differences") lines differ"; }
  printf '%-44s %s facts, diff prints nothing\n' "equal to the lost one" "$(wc -l < "$1")"
}
by_all=tiers,files,names,copies
by_tiers=$by_all,aggregates,members

up
populate
# Stopped and started: by then it has heard of every write.
down; up
read -r files bytes < <(count "$backing")
echo "$files files of $bytes bytes; $(nproc) processors; $("$CAIRN_BIN" --version)"
step "archive" "$files" "$bytes" archive
mutate
down; up
step "release (files of 64 KiB and more)" $((FILES / 50)) "$bytes" release
down
dump $by_all "$work/all.before"
dump $by_tiers "$work/tiers.before"
grep -c released "$work/all.before" | sed 's/^/released: /'

forget
step "rebuild --from stubs" "$files" 0 rebuild --from stubs
dump $by_all "$work/after"
equal "$work/all.before" "$work/after"

forget
step "rebuild --from tiers" "$files" 0 rebuild --from tiers
dump $by_tiers "$work/after"
equal "$work/tiers.before" "$work/after"

forget
killed() {
  local pause=0.05 kills=0 pid
  while :; do
    "$CAIRN_BIN" rebuild -q --state "$state" --tier "disk=dir:$tier" "$backing" > "$work/report" 2> "$work/err" &
    pid=$!
    sleep $pause
    kill -KILL $pid 2>/dev/null || true
    wait $pid 2>/dev/null && break
    grep -q "a rebuild of it is done" "$work/err" && break
    kills=$((kills + 1)) pause=$(awk "BEGIN { print $pause * 1.2 }")
  done
  echo "killed $kills times"
}
step "rebuild, killed again and again" "$files" 0 killed
dump $by_tiers "$work/after"
equal "$work/tiers.before" "$work/after"

# Aggregates alone: no file has a record any more. Files that changed since their archive are new ones then.
find "$backing" -type f -exec setfattr -x trusted.cairn.record {} + 2>/dev/null || true
forget
step "rebuild --from tiers, all records gone" "$files" "$bytes" rebuild --from tiers
tail -n 12 "$work/report"
up
step "repair: stubs put back" $((FILES / 50)) 0 cairn repair --apply > "$work/repaired"
tail -n 1 "$work/repaired"
down
dump files,names,copies "$work/after"
grep -v '"dirty"\|"none"' "$work/all.before" | grep '"what":"files"' > "$work/archived.before"
grep -v '"dirty"\|"none"' "$work/after" | grep '"what":"files"' > "$work/archived.after"
equal "$work/archived.before" "$work/archived.after"
echo "rebuild: holds"
