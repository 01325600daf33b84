#!/bin/sh
# Epilog of Flux's job manager: archives what the job asks for, and ends what it holds. For prolog.sh and as it, in
# /etc/flux/system/epilog.d/, with
#
#   [job-manager.epilog]
#   command = [ "flux-imp", "run", "epilog" ]
CAIRN_FLUX_STEP=release exec "$(dirname "$(readlink -f "$0")")/prolog.sh"
