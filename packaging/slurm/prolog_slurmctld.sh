#!/bin/sh
# PrologSlurmctld for sites without burst_buffer/lua: the job's nodes are allocated and wait (CONFIGURING) until its files
# are on disk. EpilogSlurmctld of the same file ends what it holds.
#
#   PrologSlurmctld=/usr/share/cairn/slurm/prolog_slurmctld.sh
#   EpilogSlurmctld=/usr/share/cairn/slurm/prolog_slurmctld.sh
#   PrologEpilogTimeout=86400
#
# Not 0: Slurm requeues a batch job, and asks again.
set -u
cairn=${CAIRN:-cairn}
script=$(mktemp) || exit 1
trap 'rm -f "$script"' EXIT
# Of salloc and srun there is no script, and so nothing to stage.
scontrol write batch_script "$SLURM_JOB_ID" - >"$script" 2>/dev/null || exit 0
grep -q '^#CAIRN[[:space:]]' "$script" || exit 0
case ${SLURM_SCRIPT_CONTEXT:-prolog_slurmctld} in
  epilog*) "$cairn" job stage-out "$SLURM_JOB_ID" --slurm --wait --script "$script"
           exec "$cairn" job release "$SLURM_JOB_ID" --slurm --script "$script" ;;
  *) "$cairn" job stage-in "$SLURM_JOB_ID" --slurm --wait --script "$script" ;;
esac
