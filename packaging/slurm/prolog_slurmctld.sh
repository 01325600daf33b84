#!/bin/sh
# PrologSlurmctld for sites without burst_buffer/lua: the job's nodes are allocated and wait (CONFIGURING) until its files
# are on disk. EpilogSlurmctld of the same file ends what it holds.
#
#   PrologSlurmctld=/usr/share/cairn/slurm/prolog_slurmctld.sh
#   EpilogSlurmctld=/usr/share/cairn/slurm/prolog_slurmctld.sh
#   PrologEpilogTimeout=86400
#
# What passes (a tier or Cairn is away) is waited for. What does not (no such file, no permission, a mistake in a directive)
# would fail again each time that Slurm requeues the job, which it does for ever: the job is requeued and held, and its
# comment says why. After it is mended: scontrol release JOBID.
#
# A job that is requeued holds nothing until its prolog stages again: Slurm runs no epilog for one that is cancelled while it
# is pending, and nobody would end what it holds.
set -u
cairn=${CAIRN:-cairn} job=$SLURM_JOB_ID
# Of salloc and srun there is no script, and so nothing to stage.
script=$(scontrol write batch_script "$job" - 2>/dev/null) || exit 0
asks() { printf '%s\n' "$script" | grep -Eq "^#CAIRN[[:space:]]+$1"; }
asks '' || exit 0
# of_job VERB [OPTION]...
of_job() {
  verb=$1; shift
  printf '%s\n' "$script" | "$cairn" job "$verb" "$job" --slurm "$@" --script -
}

case ${SLURM_SCRIPT_CONTEXT:-prolog_slurmctld} in
  # What the job holds ends also if what it wrote could not be archived.
  epilog*) ! asks '(optional[[:space:]]+)?stage_out[[:space:]]' || of_job stage-out --wait
           of_job release --wait 30s
           exit ;;
esac

said=$(of_job stage-in --wait 2>&1 >/dev/null) && exit 0
code=$?
printf '%s\n' "$said" >&2
# Slurm ended it (the job is cancelled, the time is up): Slurm knows what to do.
[ "$code" -lt 128 ] || exit 1

# As much of the reason as a comment holds, in a line, without what scontrol takes for the end of it.
why=$(printf '%s\n' "$said" | sed -n 's/^cairn: //p' | grep -v '^optional: ' | tr '\n"'"'" ';  ' |
  sed 's/;$//; s/;/; /g' | cut -c 1-240)
why="cairn: ${why:-stage-in failed (exit code $code)}"
scontrol update "jobid=$job" "admincomment=$why"
case $(squeue -h -j "$job" -o %k) in
  '(null)' | '' | 'cairn: '*) scontrol update "jobid=$job" "comment=$why" ;;
esac
scontrol requeuehold "$job"
exit 1
