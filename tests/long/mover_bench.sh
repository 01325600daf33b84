#!/usr/bin/env bash
# `cairn put` and `get` beside what else copies between hosts, all over the loopback interface in one run, in turns:
# iperf3 (to nothing and to a file), scp, rsync over ssh, tar through a plain socket, GridFTP and XRootD where they are
# installed. Prints ratios for docs/benchmarks.md. Fails only if something comes back different.
#
#   [GIB=4] [STREAMS=4] [ROUNDS=3] [FILES=10000] tests/long/mover_bench.sh
source "$(dirname "$0")/rig.bash"
GIB=${GIB:-4} STREAMS=${STREAMS:-4} ROUNDS=${ROUNDS:-3} FILES=${FILES:-10000}
requires $((GIB * 4 + 2)) python3 ssh sshd scp rsync tar
begin
printf 'rule archive none\n  never\n' > "$work/none.policy"
up --policy "$work/none.policy"
"$CAIRN_BIN" serve --listen 127.0.0.1:0 "$mount" > "$work/door" 2>> "$work/up.log" < /dev/null &
door_pid=$!
others=()
trap 'code=$?; kill $door_pid "${others[@]}" 2>/dev/null; set +e; (exit $code); finish' EXIT
until grep -q ready "$work/door"; do kill -0 $door_pid 2>/dev/null || fail "cairn serve did not start"; sleep 0.1; done
read -r _ _ CAIRN_SERVER _ _ _ CAIRN_FINGERPRINT < "$work/door"
CAIRN_TOKEN=$(cairn token issue --user 0 "$mount" 2>/dev/null | sed -n 's/^CAIRN_TOKEN=//p')
export CAIRN_SERVER CAIRN_FINGERPRINT CAIRN_TOKEN
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# A sshd of our own, for scp and rsync.
ssh_port=$(free_port)
ssh-keygen -q -t ed25519 -N '' -f "$work/host" && ssh-keygen -q -t ed25519 -N '' -f "$work/user"
mkdir -p /run/sshd
cat > "$work/sshd.conf" <<C
Port $ssh_port
ListenAddress 127.0.0.1
HostKey $work/host
AuthorizedKeysFile $work/user.pub
StrictModes no
PermitRootLogin yes
PidFile none
UsePAM no
Subsystem sftp internal-sftp
C
"$(command -v sshd)" -D -f "$work/sshd.conf" 2> "$work/sshd.log" & others+=($!)
ssh_options=(-q -i "$work/user" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null)
until ssh -p "$ssh_port" "${ssh_options[@]}" 127.0.0.1 true; do sleep 0.2; done

# GridFTP does not serve root, and XRootD neither: both as nobody, from and to a directory of theirs.
peers=$work/peers; mkdir "$peers"; chown nobody "$peers"
as_nobody=(setpriv --reuid nobody --regid nogroup --clear-groups env HOME="$peers")
if command -v globus-gridftp-server globus-url-copy > /dev/null; then
  gridftp=$(free_port)
  "${as_nobody[@]}" globus-gridftp-server -s -p "$gridftp" -control-interface 127.0.0.1 -data-interface 127.0.0.1 -aa -home-dir / \
    > "$work/gridftp.log" 2>&1 & others+=($!)
fi
if command -v xrootd xrdcp > /dev/null; then
  xrootd=$(free_port)
  printf 'all.export %s\nxrd.port %s\nall.adminpath %s/admin\nall.pidpath %s/admin\nxrootd.async off\n' "$peers" "$xrootd" "$peers" "$peers" > "$work/xrootd.cfg"
  "${as_nobody[@]}" xrootd -c "$work/xrootd.cfg" > "$work/xrootd.log" 2>&1 & others+=($!)
fi
sleep 1

# Seconds, CPU seconds and most memory (MiB) of a command and its children, one line in $work/NAME.CLIENT; for cairn with what
# the agent at the other end used beside them.
cat > "$work/measure.py" <<'P'
import glob, os, resource, subprocess, sys, time
def agents():
    found = {}
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = open(path, "rb").read().split(b"\0")
            if len(words) > 1 and words[1] == b"agent" and words[0].endswith(b"cairn"):
                base = os.path.dirname(path)
                stat = open(base + "/stat").read().rsplit(")", 1)[1].split()
                peak = [l for l in open(base + "/status") if l.startswith("VmHWM")]
                found[base] = ((int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), int(peak[0].split()[1]) / 1024)
        except (OSError, IndexError):
            pass
    return found
before = agents()
begun = time.monotonic()
code = subprocess.call(sys.argv[2:], stdout=subprocess.DEVNULL)
took = time.monotonic() - begun
used = resource.getrusage(resource.RUSAGE_CHILDREN)
after = agents()
far = sum(cpu - before.get(pid, (0, 0))[0] for pid, (cpu, _) in after.items())
peak = max((peak for _, peak in after.values()), default=0)
with open(sys.argv[1], "a") as out:
    out.write(f"{took:.3f} {used.ru_utime + used.ru_stime:.2f} {used.ru_maxrss / 1024:.0f} {far:.2f} {peak:.0f}\n")
sys.exit(code)
P
measured() { local name=$1 client=$2; shift 2; sync; python3 "$work/measure.py" "$work/$name.$client" "$@" || fail "$name by $client"; }
shown() { # shown NAME BYTES CLIENT...: medians, and the ratio of each to cairn
  local name=$1 bytes=$2 client; shift 2
  for client; do
    [ -s "$work/$name.$client" ] || continue
    python3 - "$name" "$bytes" "$client" "$work/$name.$client" "$work/$name.cairn" <<'P'
import statistics as st, sys
name, size, client = sys.argv[1], int(sys.argv[2]), sys.argv[3]
read = lambda path: [[float(x) for x in line.split()] for line in open(path)]
rows, ours = read(sys.argv[4]), read(sys.argv[5])
took = [r[0] for r in rows]
mid = st.median(took)
print(f"{name:24} {client:10} {mid:7.2f} s ({min(took):.2f} to {max(took):.2f}, n={len(took)}) {size / mid / 1e6:8.1f} MB/s  "
      f"CPU s/GiB {st.median(r[1] for r in rows) / (size / 2**30):6.2f} here {st.median(r[3] for r in rows) / (size / 2**30):6.2f} there  "
      f"MiB {max(r[2] for r in rows):4.0f} here {max(r[4] for r in rows):4.0f} there  {mid / st.median(r[0] for r in ours):5.2f} x cairn")
P
  done
}

python3 - "$original" "$GIB" "$FILES" <<'P'
import os, random, sys
top, gib, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(1)
with open(f"{top}/large", "wb") as f:
    for _ in range(gib * 16):
        f.write(dice.randbytes(64 << 20))
for n in range(files):
    os.makedirs(f"{top}/small/{n // 200:03d}", exist_ok=True)
    with open(f"{top}/small/{n // 200:03d}/{n % 200:03d}", "wb") as f:
        f.write(dice.randbytes(10240))
P
iperf() { # iperf [FILE]: GIB GiB to nothing, or to a file
  local port=$(free_port) to=()
  [ -z "${1:-}" ] || to=(-F "$1")
  iperf3 -s -1 -B 127.0.0.1 -p "$port" "${to[@]}" > /dev/null & local server=$!
  sleep 0.5
  iperf3 -c 127.0.0.1 -p "$port" -P "$STREAMS" -n "$((GIB * 1024 / STREAMS))M" > "$work/iperf.log" || return 1
  wait $server
}
export -f iperf free_port; export GIB STREAMS work
size=$((GIB << 30))
cat "$original/large" > /dev/null
for ((round = 0; round < ROUNDS; round++)); do
  rm -f "$mount/large" "$work/back" "$work/iperf"
  measured "put of $GIB GiB" cairn "$CAIRN_BIN" put -q --streams "$STREAMS" "$original/large" :large
  [ "$round" != 0 ] || cmp "$original/large" "$mount/large" || fail "other bytes are there"
  measured "get of $GIB GiB" cairn "$CAIRN_BIN" get -q --streams "$STREAMS" :large "$work/back"
  [ "$round" != 0 ] || cmp "$original/large" "$work/back" || fail "other bytes came back"
  rm -f "$work/back"
  if command -v iperf3 > /dev/null; then
    measured "put of $GIB GiB" iperf3 bash -c iperf
    measured "put of $GIB GiB" iperf3-F bash -c "iperf '$work/iperf'"
    rm -f "$work/iperf"
  fi
  measured "put of $GIB GiB" scp scp -P "$ssh_port" "${ssh_options[@]}" "$original/large" "127.0.0.1:$work/back"
  rm -f "$work/back"
  if [ -n "${gridftp:-}" ]; then
    measured "put of $GIB GiB" gridftp globus-url-copy -p "$STREAMS" "file://$original/large" "ftp://127.0.0.1:$gridftp$peers/gridftp"
    [ "$round" != 0 ] || cmp "$original/large" "$peers/gridftp" || fail "GridFTP stored other bytes"
    rm -f "$peers/gridftp"
  fi
  if [ -n "${xrootd:-}" ]; then
    measured "put of $GIB GiB" xrdcp xrdcp -f -s -S "$STREAMS" "$original/large" "root://127.0.0.1:$xrootd/$peers/xrootd"
    [ "$round" != 0 ] || cmp "$original/large" "$peers/xrootd" || fail "XRootD stored other bytes"
    rm -f "$peers/xrootd"
  fi
done
# None but cairn's is durable at its end.
shown "put of $GIB GiB" "$size" cairn iperf3 iperf3-F scp gridftp xrdcp
shown "get of $GIB GiB" "$size" cairn

for ((round = 0; round < ROUNDS; round++)); do
  rm -rf "$mount/small" "$work/back" "$work/by-scp" "$work/by-rsync" "$work/by-tar"
  measured "put of $FILES files" cairn "$CAIRN_BIN" put -q "$original/small" :small
  [ "$round" != 0 ] || diff -r "$original/small" "$mount/small" || fail "other files are there"
  measured "get of $FILES files" cairn "$CAIRN_BIN" get -q :small "$work/back"
  [ "$round" != 0 ] || diff -r "$original/small" "$work/back" || fail "other files came back"
  measured "put of $FILES files" scp scp -r -P "$ssh_port" "${ssh_options[@]}" "$original/small" "127.0.0.1:$work/by-scp"
  measured "put of $FILES files" rsync rsync -a -e "ssh -p $ssh_port ${ssh_options[*]}" "$original/small/" "127.0.0.1:$work/by-rsync/"
  mkdir "$work/by-tar"
  # Both as `tar | nc` does it, with a shell's own socket; the second to a mount as cairn has it, durable at the end as with cairn.
  port=$(free_port)
  measured "put of $FILES files" tar-pipe bash -c "python3 - <<'S' &
import socket, subprocess
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', $port)); s.listen()
c, _ = s.accept()
subprocess.check_call(['tar', '-xf', '-', '-C', '$work/by-tar'], stdin=c.makefile('rb'))
subprocess.check_call(['sync', '-f', '$work/by-tar'])
S
    server=\$!
    until tar -cf - -C '$original/small' . 2>/dev/null > /dev/tcp/127.0.0.1/$port; do sleep 0.05; done
    wait \$server"
done
shown "put of $FILES files" $((FILES * 10240)) cairn scp rsync tar-pipe
shown "get of $FILES files" $((FILES * 10240)) cairn
down
