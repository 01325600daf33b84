#!/usr/bin/env bash
# A file, or all files, of a tier in a bucket with curl and tar alone, as docs/format.md ("From a bucket") says.
#
# Usage: restore.sh ENDPOINT BUCKET PREFIX REGION DIRECTORY [PATH]
# Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
set -euo pipefail
endpoint=$1 bucket=$2 prefix=$3 region=$4 to=$5 path=${6:-}

get() { # URL
  curl --silent --show-error --fail --aws-sigv4 "aws:amz:$region:s3" \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
    -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" "$1"
}

# A thousand keys a page, in the order of their bytes, which is that of age: later ones replace earlier ones.
after=
while :; do
  page=$(get "$endpoint/$bucket?list-type=2&prefix=$prefix%2Faggregates%2F&start-after=$after")
  keys=$(grep -o '<Key>[^<]*</Key>' <<<"$page" | sed 's/<[^>]*>//g' || true)
  [ -n "$keys" ] || break
  while read -r key; do
    # shellcheck disable=SC2086  # No path: all of it.
    get "$endpoint/$bucket/$key" | tar --xattrs --xattrs-include='*' --acls --numeric-owner -xpf - -C "$to" $path
  done <<<"$keys"
  after=$(tail -n 1 <<<"$keys" | sed 's:/:%2F:g')
done
