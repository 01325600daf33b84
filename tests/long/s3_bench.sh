#!/usr/bin/env bash
# A bucket beside the AWS command line and rclone, all against one local s3s-fs: large objects, single members of many
# objects, small files. In turns within one run, each step cold and to the end of a sync. Prints the ratios for
# docs/benchmarks.md. Fails only if something is not archived, or comes back different.
#
#   [S3S=/path/to/s3s-fs] [GIB=4] [ROUNDS=3] [FILES=10000] tests/long/s3_bench.sh
#
# Where no S3S is named, tests/servers/strict is built for release, which takes minutes: the tests have it without optimisation.
# GIB=0 and FILES=0 leave those parts out. aws and rclone are left out, by name, where they are not installed. The server keeps its data in memory where there
# is room (SERVER_DIR).
source "$(dirname "$0")/rig.bash"
GIB=${GIB:-4} ROUNDS=${ROUNDS:-3} FILES=${FILES:-10000}
requires $((GIB * 3 + 2)) python3 curl
server=${S3S:-target/strict/release/cairn-test-s3s}
if [ -z "${S3S:-}" ]; then
  command -v cargo > /dev/null || skip "needs cargo to build its server, or S3S=/path/to/s3s-fs"
  cargo build --quiet --release --locked --manifest-path tests/servers/strict/Cargo.toml --target-dir target/strict ||
    fail "its server could not be built"
fi
[ -x "$server" ] || fail "$server is no program"
begin
export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=bench-secret AWS_EC2_METADATA_DISABLED=true AWS_REGION=us-east-1
data=$(mktemp -d "${SERVER_DIR:-/dev/shm}/cairn-s3-XXXXXX")
mkdir "$data/bench"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --access-key "$AWS_ACCESS_KEY_ID" --secret-key "$AWS_SECRET_ACCESS_KEY" --host 127.0.0.1 --port "$port" \
  "$data" > "$work/server.log" 2>&1 &
server_pid=$!
trap 'code=$?; kill $server_pid 2>/dev/null; rm -rf "$data"; set +e; (exit $code); finish' EXIT
endpoint=http://127.0.0.1:$port
until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null; do
  kill -0 $server_pid 2>/dev/null || fail "the server: $(cat "$work/server.log")"
  sleep 0.1
done
# rclone 1.60 cannot do with one; all is plain HTTP here.
unset AWS_CA_BUNDLE
export AWS_ENDPOINT_URL=$endpoint RCLONE_CONFIG=$work/rclone.conf
: > "$work/rclone.conf"
export RCLONE_S3_PROVIDER=Other RCLONE_S3_ENDPOINT=$endpoint RCLONE_S3_ENV_AUTH=true RCLONE_S3_REGION=us-east-1
clients=(cairn)
for tool in aws rclone; do
  if command -v $tool > /dev/null; then clients+=($tool); else echo "left out: $tool is not installed"; fi
done

# Seconds, CPU seconds and most memory (MiB) of a command and its children, behind it on descriptor 3.
cat > "$work/measure.py" <<'P'
import os, resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.call(sys.argv[2:], stdout=subprocess.DEVNULL)
os.sync()
took = time.monotonic() - begun
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "a") as out:
    out.write(f"{took:.3f} {used.ru_utime + used.ru_stime:.2f} {used.ru_maxrss / 1024:.0f}\n")
sys.exit(code)
P
ticks() { awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15) / hz }' "/proc/$cairn_pid/stat"; }
# measured NAME CLIENT COMMAND...: one line in $work/NAME.CLIENT; of Cairn with what its instance used.
measured() {
  local name=$1 client=$2 before after; shift 2
  drop_caches
  echo 5 > "/proc/$cairn_pid/clear_refs"
  before=$(ticks)
  python3 "$work/measure.py" "$work/now" "$@" || fail "$name by $client"
  after=$(ticks)
  if [ "$client" = cairn ]; then
    awk -v more="$(awk "BEGIN { print $after - $before }")" \
      -v peak="$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$cairn_pid/status")" \
      '{ print $1, $2 + more, peak }' "$work/now" >> "$work/$name.$client"
  else
    cat "$work/now" >> "$work/$name.$client"
  fi
  rm "$work/now"
}

put() { # put NAME CLIENT DIRECTORY BELOW-THE-MOUNT
  case $2 in
    cairn) measured "$1" cairn "$CAIRN_BIN" archive --wait -q --tier s3 "$mount/$3" ;;
    aws) measured "$1" aws aws s3 cp --recursive --quiet "$backing/$3" "s3://bench/aws/$3" ;;
    rclone) measured "$1" rclone rclone copy "$backing/$3" ":s3:bench/rclone/$3" ;;
  esac
}
sums() { (cd "$backing/$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
get() { # get NAME CLIENT DIRECTORY
  case $2 in
    cairn)
      sums "$3" > "$work/sums"
      cairn release --wait -q "$mount/$3"
      measured "$1" cairn "$CAIRN_BIN" stage --wait -q "$mount/$3" ;;
    aws) measured "$1" aws aws s3 cp --recursive --quiet "s3://bench/aws/$3" "$work/out" ;;
    rclone) measured "$1" rclone rclone copy ":s3:bench/rclone/$3" "$work/out" ;;
  esac
  if [ "$2" = cairn ]; then
    sums "$3" | cmp -s - "$work/sums" || fail "$3 by cairn came back different"
    return
  fi
  diff -r "$backing/$3" "$work/out" > /dev/null || fail "$3 by $2 came back different"
  clear_away "$work/out"
}
# shown NAME BYTES: medians of all clients, and the ratios to Cairn's time.
shown() {
  local client
  for client in "${clients[@]}"; do
    [ -s "$work/$1.$client" ] || continue
    python3 - "$1" "$2" "$client" "$work/$1.$client" "$work/$1.cairn" <<'P'
import statistics as st, sys
name, size, client, rows, ours = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
read = lambda path: [[float(x) for x in line.split()] for line in open(path)]
rows, ours = read(rows), read(ours)
took = [r[0] for r in rows]
ratio = st.median(took) / st.median(r[0] for r in ours)
cpu, peak = st.median(r[1] for r in rows), max(r[2] for r in rows)
print(f"{name:22} {client:7} {st.median(took):8.2f} s ({min(took):.2f} to {max(took):.2f}, n={len(took)}) "
      f"{size / st.median(took) / 1e6:8.1f} MB/s  {cpu / (size / 2**30):6.2f} CPU s/GiB  {peak:5.0f} MiB  {ratio:5.2f} x the time of cairn")
P
  done
}
make() { # make DIRECTORY FILES BYTES PER-DIRECTORY SEED
  python3 - "$backing/$1" "$2" "$3" "$4" "$5" <<'P'
import os, random, sys
top, files, size, per, seed = sys.argv[1], *map(int, sys.argv[2:])
dice = random.Random(seed)
for n in range(files):
    at = f"{top}/{n // per:04d}"
    os.makedirs(at, exist_ok=True)
    with open(f"{at}/{n % per:03d}", "wb") as f:
        for left in range(size, 0, -(8 << 20)):
            f.write(dice.randbytes(min(left, 8 << 20)))
P
}
turns() { # the clients, another one first each round
  local n
  for ((n = 0; n < ${#clients[@]}; n++)); do echo "${clients[(n + $1) % ${#clients[@]}]}"; done
}
clear_bucket() { rm -rf "$data/bench/aws" "$data/bench/rclone"; }

printf 'rule archive none\n  never\n' > "$work/none.policy"
printf 'aggregate-size = "16400KiB"\nsnapshot-every = "0s"\nmin-residency = "0s"\n' > "$work/bench.toml"
up --config "$work/bench.toml" --policy "$work/none.policy" --tier "s3=s3://bench/cairn?endpoint=$endpoint"

if [ "$GIB" -gt 0 ]; then
  large=$((GIB * 1024 / 256))
  for ((round = 0; round < ROUNDS; round++)); do
    make "large-$round" "$large" $((256 << 20)) "$large" "$round"
    for client in $(turns "$round"); do put "put of 256 MiB" "$client" "large-$round"; done
    for client in $(turns "$round"); do get "get of 256 MiB" "$client" "large-$round"; done
    clear_bucket; rm -rf "$data"/bench/cairn/aggregates/*; clear_away "$backing/large-$round"
  done
  shown "put of 256 MiB" $((GIB << 30))
  shown "get of 256 MiB" $((GIB << 30))
fi
if [ "$FILES" -gt 0 ]; then
  for ((round = 0; round < ROUNDS; round++)); do
    make "small-$round" "$FILES" 10240 200 $((100 + round))
    for client in $(turns "$round"); do put "put of 10 KiB" "$client" "small-$round"; done
    clear_bucket; rm -rf "$data"/bench/cairn/aggregates/*; clear_away "$backing/small-$round"
  done
  shown "put of 10 KiB" $((FILES * 10240))
fi

# 5,000 members of 64 KiB in about 20 aggregates. Of these 1,000: every fifth, and the first 20 directories of 50. The others
# keep each as an object, so to them these are 1,000 single GETs.
every_fifth() { (cd "$backing/$1" && find . -type f | sort | sed 's|^\./||' | awk 'NR % 5 == 0'); }
neighbours() { (cd "$backing/$1" && find . -type f | sort | sed 's|^\./||' | awk 'NR <= 1000'); }
get_listed() { # get_listed NAME CLIENT DIRECTORY LIST
  case $2 in
    cairn)
      cairn release --wait -q "$mount/$3"
      sed "s|^|$mount/$3/|" "$4" > "$work/paths"
      measured "$1" cairn "$CAIRN_BIN" stage --wait -q --files-from "$work/paths"
      listed_sums "$backing/$3" "$4" | cmp -s - "$4.sums" || fail "$3 by cairn came back different"
      return ;;
    aws) return ;; # it takes no list of names
    rclone) measured "$1" rclone rclone copy --files-from "$4" ":s3:bench/rclone/$3" "$work/out" ;;
  esac
  listed_sums "$work/out" "$4" | cmp -s - "$4.sums" || fail "$3 by $2 came back different"
  clear_away "$work/out"
}
listed_sums() { (cd "$1" && xargs -a "$2" sha256sum); }
members() { # members ROUND
  local client list
  make "members-$1" 5000 65536 50 $((200 + $1))
  every_fifth "members-$1" > "$work/every-fifth"
  neighbours "members-$1" > "$work/neighbours"
  for client in $(turns "$1"); do put "put of 64 KiB" "$client" "members-$1"; done
  for list in every-fifth neighbours; do
    listed_sums "$backing/members-$1" "$work/$list" > "$work/$list.sums"
  done
  for list in every-fifth neighbours; do
    for client in $(turns "$1"); do get_listed "get of 1,000, $list" "$client" "members-$1" "$work/$list"; done
  done
  clear_bucket; rm -rf "$data"/bench/cairn/aggregates/*; clear_away "$backing/members-$1"
}
for ((round = 0; round < ROUNDS; round++)); do members "$round"; done
shown "put of 64 KiB" $((5000 * 65536))
shown "get of 1,000, every-fifth" $((1000 * 65536))
shown "get of 1,000, neighbours" $((1000 * 65536))
down

# How many requests that takes, as the access log of moto says; not timed.
moto=${CAIRN_TEST_MOTO:-$(command -v moto_server || true)}
if [ ! -x "${moto:-}" ]; then echo "left out: the number of requests (set CAIRN_TEST_MOTO)"; exit 0; fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$moto" -H 127.0.0.1 -p "$port" > "$work/moto.log" 2>&1 &
moto_pid=$!
trap 'code=$?; kill $server_pid $moto_pid 2>/dev/null; rm -rf "$data"; set +e; (exit $code); finish' EXIT
until curl -s -o /dev/null "http://127.0.0.1:$port/"; do
  kill -0 $moto_pid 2>/dev/null || fail "moto: $(tail -n 3 "$work/moto.log")"
  sleep 0.2
done
curl -s -o /dev/null -X PUT -H 'Authorization: AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0' \
  "http://127.0.0.1:$port/bench"
clear_away "$state"; clear_away "$backing"; clear_away "$tier"; mkdir "$backing" "$tier"
up --config "$work/bench.toml" --policy "$work/none.policy" --tier "s3=s3://bench/cairn?endpoint=http://127.0.0.1:$port"
make counted 5000 65536 50 900
cairn archive --wait -q --tier s3 "$mount/counted"
for list in every-fifth neighbours; do
  cairn release --wait -q "$mount/counted"
  "${list//-/_}" counted | sed "s|^|$mount/counted/|" > "$work/paths"
  before=$(grep -c 'GET /bench/' "$work/moto.log" || true)
  cairn stage --wait -q --files-from "$work/paths"
  after=$(grep -c 'GET /bench/' "$work/moto.log" || true)
  objects=$(sed -n 's|.*GET /bench/\([^ ?]*\).*|\1|p' "$work/moto.log" | tail -n $((after - before)) | sort -u | wc -l)
  printf '%-26s %5d GETs of %d objects for 1,000 members\n' "$list" $((after - before)) "$objects"
done
down
