#!/bin/sh
# Prolog of Flux's job manager, which runs it as the instance's owner before a job starts (docs/slurm.md):
#
#   [job-manager.prolog]
#   command = [ "flux", "perilog-run", "prolog", "-e", "/usr/share/cairn/flux/prolog.sh" ]
#   timeout = "24h"
#
# A job's batch script is among the files of its jobspec (RFC 37). Not 0: Flux raises an exception of the job's.
set -u
cairn=${CAIRN:-cairn}
job=${FLUX_JOB_ID:?} user=${FLUX_JOB_USERID:?}
spec=$(flux job info "$job" jobspec) || exit 1
script=$(mktemp) || exit 1
trap 'rm -f "$script"' EXIT
printf '%s' "$spec" | python3 -c '
import base64, json, sys
system = json.load(sys.stdin)["attributes"]["system"]
script = system.get("files", {}).get("script", {})
data = script.get("data", "") if isinstance(script, dict) else script
if isinstance(script, dict) and script.get("encoding") == "base64":
    sys.stdout.buffer.write(base64.b64decode(data))
else:
    sys.stdout.write(data)
' >"$script" || exit 1
cwd=$(printf '%s' "$spec" | python3 -c '
import json, sys
print(json.load(sys.stdin)["attributes"]["system"].get("cwd", "/"))') || exit 1
grep -q '^#CAIRN[[:space:]]' "$script" || exit 0
# Numbers of Flux jobs are words of f, digits and letters: in decimal they are plain.
id=flux-$(flux job id --to=dec "$job") || exit 1
case ${CAIRN_FLUX_STEP:-stage-in} in
  stage-in) "$cairn" job stage-in "$id" --as "$user" --wait --script - --directory "$cwd" <"$script" ;;
  release) "$cairn" job stage-out "$id" --as "$user" --wait --script - --directory "$cwd" <"$script"
           exec "$cairn" job release "$id" --as "$user" --script - --directory "$cwd" <"$script" ;;
esac
