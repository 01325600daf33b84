#!/bin/sh
# Prolog of Flux's job manager: a job's nodes wait until its files are on disk (docs/slurm.md). It runs once for a job, on
# rank 0, and as root: put it, or a link to it, into /etc/flux/system/prolog.d/ (epilog.sh into epilog.d/), and
#
#   [job-manager.prolog]                                  # IMP: [run.prolog] with allowed-environment = [ "FLUX_*" ]
#   command = [ "flux-imp", "run", "prolog" ]             # not by `flux perilog-run -e`, which would run it on every
#   timeout = "24h"                                       # node, and drains nodes where it fails
#
# Root needs to see jobs: [access] allow-root-owner = true.
#
# What passes (a tier or Cairn is away) is waited for; that nothing at all is mounted there, for CAIRN_PATIENCE seconds. What
# does not pass fails the prolog, and so the job: stderr and an exception in the job's eventlog say why. Jobs' batch scripts
# are among the files of their jobspec (RFC 37).
set -u
cairn=${CAIRN:-cairn} step=${CAIRN_FLUX_STEP:-stage-in} patience=${CAIRN_PATIENCE:-600}
job=${FLUX_JOB_ID:?} user=${FLUX_JOB_USERID:?}
work=$(mktemp -d) || exit 1
child=
trap 'rm -rf "$work"' EXIT
# A job that is cancelled is waited for no longer: Flux drains the node of a prolog that does not end.
trap '[ -z "$child" ] || kill "$child"; exit 143' TERM INT

flux job info "$job" jobspec >"$work/spec" || exit 1
python3 - "$work" <<'P' || exit 1
import base64, json, sys
work = sys.argv[1]
with open(work + "/spec") as spec:
    system = json.load(spec)["attributes"]["system"]
script = system.get("files", {}).get("script", {})
script = script if isinstance(script, dict) else {"data": script}
data = script.get("data", "")
data = base64.b64decode(data) if script.get("encoding") == "base64" else str(data).encode()
open(work + "/script", "wb").write(data)
open(work + "/cwd", "w").write(system.get("cwd", "/"))
P
grep -q '^#CAIRN[[:space:]]' "$work/script" || exit 0
cwd=$(cat "$work/cwd")
# Numbers of Flux jobs are words of f, digits and letters: in decimal they are plain.
id=flux-$(flux job id --to=dec "$job") || exit 1

# of_job VERB [OPTION]...: as the job's user.
of_job() {
  verb=$1; shift
  [ "$(id -u)" = "$user" ] || set -- --as "$user" "$@"
  "$cairn" job "$verb" "$id" "$@" --script - --directory "$cwd" <"$work/script" 2>"$work/said" &
  child=$!
  wait "$child"; code=$?
  child=
  cat "$work/said" >&2
  return "$code"
}

if [ "$step" = release ]; then
  # What the job holds ends also if what it wrote could not be archived.
  of_job stage-out --wait
  of_job release --wait 30s
  exit
fi
begun=$(date +%s)
while :; do
  of_job stage-in --wait && exit 0
  code=$?
  # 3: no instance is there.
  [ "$code" = 3 ] && [ $(($(date +%s) - begun)) -lt "$patience" ] || break
  sleep "${CAIRN_PAUSE:-10}" & child=$!
  wait "$child"
  child=
done
why=$(sed -n 's/^cairn: //p' "$work/said" | grep -v '^optional: ' | tr '\n' ';' | sed 's/;$//; s/;/; /g' | cut -c 1-500)
# Not a fatal one: Flux raises that of a prolog that failed, and would end this one for it before.
flux job raise --severity=1 --type=cairn --message="cairn: ${why:-stage-in failed (exit code $code)}" "$job"
exit 1
