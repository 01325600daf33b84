#!/usr/bin/env bash
# Copies to and from a server of which something is killed in the middle: a stream, the caller, the agent, the door. Each must end
# complete and equal, by itself or (where the caller was killed) by the same command with --resume; a name never stands for
# half a file meanwhile. Prints how many of which were killed, and how much was moved twice.
#
#   [COPIES=200] [SEED=1] tests/long/mover_kills.sh
source "$(dirname "$0")/rig.bash"
COPIES=${COPIES:-200}
RANDOM=${SEED:-1}
requires 4 python3 ss
begin
printf 'rule archive none\n  never\n' > "$work/none.policy"
up --policy "$work/none.policy"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# A door that is opened again whenever it dies.
( trap 'kill $door 2>/dev/null; exit' TERM
  while :; do
    "$CAIRN_BIN" serve --listen "127.0.0.1:$port" "$mount" > "$work/door" 2>> "$work/door.log" < /dev/null & door=$!
    wait $door || true
  done ) & keeper=$!
trap 'code=$?; kill $keeper 2>/dev/null || true; set +e; (exit $code); finish' EXIT
until grep -q ready "$work/door" 2>/dev/null; do sleep 0.1; done
export CAIRN_SERVER=127.0.0.1:$port
CAIRN_FINGERPRINT=$(awk '{ print $NF }' "$work/door")
CAIRN_TOKEN=$(cairn token issue --user 0 "$mount" 2>/dev/null | sed -n 's/^CAIRN_TOKEN=//p')
export CAIRN_FINGERPRINT CAIRN_TOKEN

# Four large files, and one tree of small ones.
sources=()
for n in 1 2 3 4; do
  head -c $(((40 + n * 13) * 1048576 + n)) /dev/urandom > "$work/source-$n"; sources+=("$work/source-$n")
  cp "$work/source-$n" "$mount/source-$n"
done
mkdir "$work/source-5"; for n in $(seq 2000); do head -c $((n * 9)) /dev/urandom > "$work/source-5/$n"; done
cp -r "$work/source-5" "$mount/source-5"
sources+=("$work/source-5")

same_as() { [ ! -e "$2" ] || diff -r "$1" "$2" > /dev/null; }
of() { pgrep -f "$1" | head -n 1; } # a process by its command line
declare -A killed=([stream]=0 [caller]=0 [agent]=0 [door]=0 [nothing]=0)
again=0
kill_one() { # kill_one WHAT CALLER-PID: not everything is there at every moment
  local victim socket
  case $1 in
    stream)
      socket=$(ss -Htn state established "dport = :$port" | awk '{ print $3 }' | shuf -n 1 --random-source=<(yes $RANDOM))
      [ -n "$socket" ] && ss -K -tn src "$socket" > /dev/null ;;
    caller) kill -9 "$2" 2>/dev/null ;;
    agent) victim=$(of "cairn agent --uid 0 .*$mount\$") && [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null ;;
    door) victim=$(of "cairn serve --listen 127.0.0.1:$port") && [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null ;;
  esac
}
whats=(stream stream caller agent door)
for ((n = 0; n < COPIES; n++)); do
  source=${sources[RANDOM % 5]} name=$(basename "$source")
  if ((RANDOM % 2)); then args=("$source" ":put-$n") target=$mount/put-$n verb=put
  else args=(":$name" "$work/get-$n") target=$work/get-$n verb=get; fi
  # A tree: its files get their names one parcel after the other, and each must be whole. It is put into a directory by name:
  # what a killed caller's agent makes a moment later must not change what the next attempt means.
  if [ -d "$source" ] && [ "$verb" = put ]; then args=("$source"/* ":put-$n/"); fi
  resume=() what=
  for attempt in 1 2 3 4 5 6; do
    "$CAIRN_BIN" "$verb" -q --limit-rate 60M "${resume[@]}" "${args[@]}" > "$work/copy.log" 2>&1 < /dev/null & copy=$!
    if [ $attempt -le 2 ]; then
      sleep "0.$((RANDOM % 8 + 1))"
      what=${whats[RANDOM % 5]}
      if kill_one "$what" $copy; then killed[$what]=$((killed[$what] + 1)); else killed[nothing]=$((killed[nothing] + 1)); what=nothing; fi
    else
      what=nothing
    fi
    code=0; wait $copy || code=$?
    if [ -f "$source" ]; then same_as "$source" "$target" || fail "copy $n: $target is not what $source is, after $what was killed"; fi
    [ $code = 0 ] && break
    [ "$what" = caller ] && [ $code -gt 128 ] || fail "copy $n ($verb $name): exit $code after $what was killed: $(cat "$work/copy.log")"
    again=$((again + 1)) resume=(--resume)
    if [ "$verb" = get ] && [ -d "$target" ]; then rm -rf "$target"; fi
  done
  [ $code = 0 ] || fail "copy $n: not done after $attempt attempts"
  diff -rq "$source" "$target" > "$work/diff" || fail "copy $n: $target is not what $source is: $(head -n 5 "$work/diff")"
  left=$(find "$mount" "$work" -maxdepth 1 -name '.cairn-part-*' | wc -l)
  [ "$left" = 0 ] || fail "copy $n: $left parts are left"
  rm -rf "$target"
done
printf 'mover_kills: %d copies complete and equal; killed: %d streams, %d callers (%d copies resumed), %d agents, %d doors; %d times nothing was there to kill\n' \
  "$COPIES" "${killed[stream]}" "${killed[caller]}" "$again" "${killed[agent]}" "${killed[door]}" "${killed[nothing]}"
kill $keeper
down
