#!/usr/bin/env bash
# What a job of NODES nodes that computes for MINUTES burns when each of its tasks opens a file that is on tape, against the
# same job with #CAIRN stage_in, one whose script reads all files first, and one whose files are on disk anyway. Real Slurm, as
# many slurmds on this host, and a virtual tape library whose clock runs SPEED times as fast; the job sleeps by the same clock.
# All in one run, in turns. Prints the table of docs/slurm.md, in seconds of the library's clock. Fails if a job does not
# end well, or a staged job waits for a recall.
#
#   [NODES=64] [MINUTES=10] [SPEED=20] [ROUNDS=3] [KINDS="disk staged tasks script"] tests/long/slurm_bench.sh
source "$(dirname "$0")/rig.bash"
NODES=${NODES:-64} MINUTES=${MINUTES:-10} SPEED=${SPEED:-20} ROUNDS=${ROUNDS:-3} KINDS=${KINDS:-disk staged tasks script}
CARTRIDGES=4 DRIVES=2 MIB=4
PATH=$PATH:/usr/sbin
requires 3 slurmctld slurmd munged sbatch srun scontrol setpriv python3
user=backup # Every Debian has it.
id -u "$user" > /dev/null 2>&1 || skip "needs the account $user: root's jobs are not staged"
begin
daemons=()
ended() {
  local code=$? pid
  set +e
  [ -z "${controller:-}" ] || timeout 20 scancel -u "$user"
  for pid in ${controller:-} "${daemons[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  sleep 1
  for pid in ${controller:-} "${daemons[@]}"; do kill -KILL "$pid" 2>/dev/null; done
  (exit "$code"); finish
}
trap ended EXIT

# Where the files lie: on each of the cartridges a fair part, and their names are in no order there.
printf 'rule archive none\n  never\n' > "$work/none.policy"
library() { echo "cold=tape:$tier?capacity=$((NODES * MIB / CARTRIDGES + 8))MiB&cartridges=$((CARTRIDGES + 1))&drives=$DRIVES&speed=$1"; }
serve() { tier_url=$(library "$1") up --policy "$work/none.policy"; chmod 755 "$mount"; }
serve max
mkdir "$mount/in"
for n in $(seq 0 $((NODES - 1))); do head -c $((MIB << 20)) /dev/urandom > "$mount/in/$(printf %03d "$n")"; done
chown -R "$user" "$mount/in"
python3 -c 'import random, sys
names = ["%03d" % n for n in range(int(sys.argv[1]))]
random.Random(8).shuffle(names)
print(*names, sep="\n")' "$NODES" > "$work/order"
# One call each: an aggregate of its own.
while read -r name; do cairn archive --wait -q "$mount/in/$name"; done < "$work/order"
down 2>> "$work/up.log"

# Slurm.
free_ports() { python3 -c 'import socket, sys
all = [socket.socket() for _ in range(int(sys.argv[1]))]
[s.bind(("127.0.0.1", 0)) for s in all]
print(*[s.getsockname()[1] for s in all])' "$1"; }
mkdir "$work"/{etc,spool,log,home,munge,bin}
chown "$user" "$work/home"; cp "$CAIRN_BIN" "$work/bin/cairn"
export SLURM_CONF=$work/etc/slurm.conf PATH=$work/bin:$PATH
head -c 1024 /dev/urandom > "$work/munge/key"; chmod 600 "$work/munge/key"
munged --force --foreground --key-file="$work/munge/key" --socket="$work/munge/socket" --pid-file="$work/munge/pid" \
  --log-file="$work/munge/log" --seed-file="$work/munge/seed" > "$work/log/munged.out" 2>&1 & daemons+=($!)
host=$(hostname -s)
read -ra ports <<< "$(free_ports $((NODES + 1)))"
cat > "$SLURM_CONF" <<C
ClusterName=bench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[NODES]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
StateSaveLocation=$work/spool
SlurmdSpoolDir=$work/spool/%n
SlurmctldPidFile=$work/log/slurmctld.pid
SlurmdPidFile=$work/log/%n.pid
SlurmctldLogFile=$work/log/slurmctld.log
SlurmdLogFile=$work/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
BurstBufferType=burst_buffer/lua
PartitionName=main Nodes=ALL Default=YES MaxTime=24:00:00 State=UP
C
for n in $(seq 1 "$NODES"); do
  echo "NodeName=n$n NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[n - 1]} CPUs=1" >> "$SLURM_CONF"
done
cairn slurm install --slurm-version 22.05 --directory "$work/etc" > /dev/null
until [ -S "$work/munge/socket" ]; do kill -0 "${daemons[0]}" 2>/dev/null || fail "munged ended"; sleep 0.1; done
slurmctld -D -f "$SLURM_CONF" > "$work/log/slurmctld.out" 2>&1 & controller=$!
for n in $(seq 1 "$NODES"); do
  slurmd -D -N "n$n" -f "$SLURM_CONF" > "$work/log/n$n.out" 2>&1 & daemons+=($!)
done
tries=0
until [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$NODES" ]; do
  [ $((tries += 1)) -lt 1200 ] || { tail -n 20 "$work/log/slurmctld.log" >&2; fail "$NODES nodes are not idle"; }
  sleep 0.1
done

# The jobs. A task reads its file and computes.
computes=$(awk -v m="$MINUTES" -v s="$SPEED" 'BEGIN { printf "%.3f", m * 60 / s }')
cat > "$work/home/task" <<T
#!/bin/sh
cat "$mount/in/\$(printf %03d "\$SLURM_PROCID")" > /dev/null && exec sleep $computes
T
chmod 755 "$work/home/task"
for kind in disk staged tasks script; do
  {
    printf '#!/bin/bash\n#SBATCH -N %s -n %s -t 12:00:00\n' "$NODES" "$NODES"
    [ $kind != staged ] || echo "#CAIRN stage_in $mount/in"
    # As users do: all of them, one after the other, by name.
    [ $kind != script ] || echo "for file in $mount/in/*; do cat \$file > /dev/null || exit; done"
    echo "exec srun $work/home/task"
  } > "$work/home/$kind.sh"
done

shown() { scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1; }
by_readers() { cairn status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["recalls"]["by_readers"])'; }
seconds() { date -d "$1" +%s; }
# run KIND: a line of kind, seconds in the queue, seconds of each node; by the library's clock.
run() {
  local kind=$1 job now before
  serve "$SPEED"
  if [ "$kind" = disk ]; then cairn stage --wait -q "$mount/in"; else cairn release --wait -q "$mount/in"; fi
  before=$(by_readers)
  job=$(cd "$work/home" && setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
    sbatch --parsable -o "$work/home/%j.out" "$kind.sh") || fail "sbatch $kind.sh"
  while now=$(shown "$job" JobState); [[ $now =~ PENDING|CONFIGURING|RUNNING|COMPLETING|STAGE_OUT ]]; do sleep 0.5; done
  [ "$now" = COMPLETED ] || { cat "$work/home/$job.out" >&2; scontrol show job "$job" >&2; fail "the job of kind $kind is $now"; }
  local waited=$(($(by_readers) - before))
  [ "$kind" != staged ] || [ $waited = 0 ] || fail "a staged job waited for $waited recalls"
  [ "$kind" != tasks ] || [ $waited -gt 0 ] || fail "no task waited for a recall"
  local start=$(seconds "$(shown "$job" StartTime)")
  echo "$kind $((SPEED * (start - $(seconds "$(shown "$job" SubmitTime)")))) $((SPEED * ($(seconds "$(shown "$job" EndTime)") - start)))" \
    | tee -a "$work/measured" | sed "s/^/round $round: /"
  down 2>> "$work/up.log"
}
for round in $(seq "$ROUNDS"); do
  for kind in $KINDS; do run "$kind"; done
  # Not the same one behind the same one each time.
  read -r first rest <<< "$KINDS"; KINDS="$rest $first"
done

echo
echo "$NODES nodes, $MINUTES minutes of computing, $NODES files on $CARTRIDGES cartridges, $DRIVES drives; the clock runs $SPEED times as fast; n = $ROUNDS, median [least, most]"
python3 - "$work/measured" "$NODES" "$MINUTES" <<'P'
import statistics, sys
path, nodes, minutes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
names = {"disk": "on disk already", "staged": "`#CAIRN stage_in`", "tasks": "each task opens its file",
         "script": "the script reads all first, by name"}
runs = {}
for line in open(path):
    kind, *numbers = line.split()
    runs.setdefault(kind, []).append([int(n) for n in numbers])
def spread(values, form):
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"
print("| files | minutes in the queue | minutes on the nodes | from submission to the end | node hours | of them not computing |")
print("|---|---|---|---|---|---|")
for kind in (k for k in names if k in runs):
    queue, held = ([run[i] for run in runs[kind]] for i in range(2))
    hours = statistics.median(held) * nodes / 3600
    minutes_of = [spread([s / 60 for s in all], '.1f') for all in (queue, held, list(map(sum, zip(queue, held))))]
    print(f"| {names[kind]} | {' | '.join(minutes_of)} | {hours:.1f} | {hours - nodes * minutes / 60:.1f} |")
if "staged" in runs:
    base = statistics.median([run[1] for run in runs["staged"]])
    for kind in ("tasks", "script"):
        if kind in runs:
            print(f"node hours, {names[kind]} : staged = {spread([run[1] / base for run in runs[kind]], '.2f')}")
P
