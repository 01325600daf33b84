#!/bin/sh
# `flux batch` for an instance without the prolog, by its users: the job is submitted held, and let go when its files are on
# disk; no node waits. When it has ended, what it wrote is archived, and what it holds ends. This runs as long as that takes:
#
# Ended before, the job stays held: `flux job urgency JOBID default` lets it go.
#
#   nohup /usr/share/cairn/flux/batch.sh -N 64 run.sh >run.log 2>&1 &
set -u
here=$(dirname "$(readlink -f "$0")")
job=$(flux batch --urgency=hold "$@") || exit
echo "$job"
export FLUX_JOB_ID="$job"
FLUX_JOB_USERID=$(id -u); export FLUX_JOB_USERID
release() { CAIRN_FLUX_STEP=release "$here/prolog.sh"; }
if "$here/prolog.sh"; then
  flux job urgency "$job" default || exit
  flux job wait-event "$job" clean >/dev/null
  release
else
  # Its eventlog says why.
  flux job raise --severity=0 --type=cancel --message="cairn: its files cannot be staged" "$job"
  release
  exit 1
fi
