#!/bin/sh
# Epilog of Flux's job manager: archives what the job asks for, and ends what it holds.
#
#   [job-manager.epilog]
#   command = [ "flux", "perilog-run", "epilog", "-e", "/usr/share/cairn/flux/epilog.sh" ]
CAIRN_FLUX_STEP=release exec "$(dirname "$0")/prolog.sh"
