#!/usr/bin/env bash
# Two hosts on this one machine do the main job: replicate a real file system, hand it over, survive a lost host, and
# prove that every byte is right. No root, nothing left behind. Usage: tests/demo.sh DIRECTORY-OF-BINARIES
set -euo pipefail

bin=$(cd "${1:?usage: tests/demo.sh DIRECTORY-OF-BINARIES}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$PATH:/usr/sbin:/sbin"
work=$(mktemp -d /tmp/mars-demo.XXXXXX)
started=$SECONDS
size=$((512 << 20))

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
  printf '\ndemo: FAILED: %s\n' "$*" >&2
  for log in "$work"/*/run/units/*.log; do
    [ -s "$log" ] && printf -- '--- %s\n' "$log" >&2 && tail -n 15 "$log" >&2
  done
  exit 1
}

# One host = one root directory, one address, one name.
host() {
  local name=$1
  shift
  env MARS_ROOT="$work/$name/mars" MARS_DEV_DIR="$work/$name/dev" MARS_RUN_DIR="$work/$name/run" \
    MARS_ETC_DIR="$work/$name/etc" MARS_HOST="$name" MARS_UNIT_MANAGER=direct "$bin/marsadm" "$@"
}
run() { # run HOST COMMAND...: shows the command as an administrator would type it
  printf '   %s# marsadm %s\n' "$1" "${*:2}"
  host "$@" | sed 's/^/     /' || die "marsadm ${*:2} failed on $1"
}
uri() { printf 'nbd+unix:///data?socket=%s/%s/dev/data' "$work" "$1"; }
pids() { # process ids of a host's daemons
  local f
  for f in "$work/$1"/run/units/*.lock; do
    [ -s "$f" ] && head -n 1 "$f"
  done
  return 0
}
writer=
cleanup() {
  local rc=$?
  trap - EXIT
  set +e
  [ -n "$writer" ] && kill "$writer" 2>/dev/null
  for h in alpha beta; do
    [ -d "$work/$h/mars" ] && host "$h" stop >/dev/null 2>&1
    for p in $(pids "$h"); do kill -9 "$p" 2>/dev/null; done
  done
  rm -rf "$work"
  [ $rc -eq 0 ] || printf 'demo: FAILED\n' >&2
  exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

wait_for() { # wait_for SECONDS "what" COMMAND...: until it succeeds
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || die "timeout: $what"
    sleep 0.1
  done
}
state_is() { [ "$(host "$1" view-diskstate data 2>/dev/null)" = "$2" ]; }
ledger() { "$here/tools/sectors.py" "$@"; }
written=0
write_on() { # write_on HOST OPTIONS...: random writes through the device with libnbd, read back and compared
  local h=$1 out
  shift
  out=$(ledger write "$(uri "$h")" --ranges "$ranges" --journal "$work/journal" "$@") || die "writing through the device on $h"
  note "$out"
  written=$((written + $(sed 's/.*bytes=\([0-9]*\).*/\1/' <<<"$out")))
}

say "A 512 MiB ext4 image with a real file tree, and a 64 MiB ledger file for an application that writes all the time"
mkdir -p "$work/tree" "$work/alpha/etc" "$work/beta/etc"
mkdir -m 700 "$work/alpha/mars" "$work/beta/mars"
left=$((250 * 1024))
while read -r kib path; do
  [ "$kib" -le $left ] || continue
  cp -a --reflink=auto "$path" "$work/tree/" 2>/dev/null || true
  left=$((left - kib))
done < <(du -skx /usr/share/*/ 2>/dev/null | sort -n | tail -n 40)
head -c $((64 << 20)) /dev/urandom >"$work/tree/ledger"
truncate -s $size "$work/alpha.img" "$work/beta.img"
mke2fs -q -t ext4 -E root_owner="$(id -u):$(id -g)" -d "$work/tree" "$work/alpha.img" || die "mke2fs"
ranges=$(debugfs -R 'stat /ledger' "$work/alpha.img" 2>/dev/null |
  grep -oE '\([0-9]+(-[0-9]+)?\):[0-9]+(-[0-9]+)?' | sed -E 's/.*:([0-9]+)(-([0-9]+))?/\1 \3/' |
  awk '{last = ($2 == "") ? $1 : $2; printf "%s%d:%d", sep, $1 * 4096, (last - $1 + 1) * 4096; sep = ","}')
[ -n "$ranges" ] || die "no extents of /ledger found"
note "$(find "$work/tree" -type f | wc -l) files, $(du -sm "$work/tree" | cut -f1) MiB of them; alpha's disk holds them, beta's is empty"
for h in alpha beta; do printf 'front = "nbd-socket"\n' >"$work/$h/etc/mars.conf"; done

say "Cluster and resource on alpha (127.0.0.2): the disk gets a transaction log in front"
run alpha create-cluster --ip=127.0.0.2
run alpha create-resource data "$work/alpha.img"
run alpha wait-resource data is-device-on
write_on alpha --batches 20 --read-back

say "beta (127.0.0.3) joins while the application goes on writing on alpha"
( ledger write "$(uri alpha)" --ranges "$ranges" --journal "$work/journal" --until "$work/stop-writing" --pause 0.02 >"$work/writer.out" 2>&1 ) &
writer=$!
run beta join-cluster alpha --ip=127.0.0.3 --ip-alpha=127.0.0.2
run beta join-resource data "$work/beta.img"
shown=
end=$((SECONDS + 60))
while :; do
  line=$(host beta view-syncinfo data 2>/dev/null | head -n 1 || true)
  bar=${line%%]*}
  # One line for each step of the bar; a finished sync has no rest.
  if [ -n "$bar" ] && [ "$bar" != "$shown" ]; then
    [ "$(host beta view-sync-rest data 2>/dev/null)" = 0 ] && break
    printf '  %s\n' "$line"
    shown=$bar
  else
    [ "$(host beta view-sync-rest data 2>/dev/null)" = 0 ] && break
  fi
  [ $SECONDS -lt $end ] || die "timeout: sync"
done
run beta view all
touch "$work/stop-writing"
wait "$writer" || die "the application on alpha failed: $(cat "$work/writer.out")"
writer=
note "$(cat "$work/writer.out") while the sync ran"
written=$((written + $(sed 's/.*bytes=\([0-9]*\).*/\1/' "$work/writer.out")))
wait_for 30 "beta UpToDate" state_is beta UpToDate
run beta view data

say "Planned handover: beta becomes primary, the application moves there"
run beta primary data
write_on beta --batches 40 --read-back
run beta view all

say "And back to alpha"
run alpha primary data
write_on alpha --batches 40 --read-back

say "beta is cut off (its processes are killed); alpha does not even notice"
for p in $(pids beta); do kill -9 "$p" 2>/dev/null || true; done
write_on alpha --batches 60 --read-back
run alpha log-rotate data
write_on alpha --batches 60

say "beta comes back and catches up from the logs"
run beta start
run beta wait-cluster
wait_for 30 "beta UpToDate after it came back" state_is beta UpToDate
run beta view all
run alpha view all

say "Both stop; proof over the disks"
fetched=$(find "$work/beta/mars/resource-data" -name 'log-*-alpha' -type f -printf '%s\n' | awk '{s += $1} END {print s + 0}')
fetched=$((fetched + $(find "$work/alpha/mars/resource-data" -name 'log-*-beta' -type f -printf '%s\n' | awk '{s += $1} END {print s + 0}')))
replayed=$(host beta view-replay-pos data)
verify=$(readlink "$work/beta/mars/resource-data/verifystatus-beta" || echo '?')
run alpha stop
run beta stop
for h in alpha beta; do
  e2fsck -fn "$work/$h.img" >"$work/fsck.out" 2>&1 || die "e2fsck on $h: $(cat "$work/fsck.out")"
  note "$h: e2fsck: $(tail -n 1 "$work/fsck.out" | sed 's/.*: //')"
  ledger check "$work/$h.img" --journal "$work/journal" --final >"$work/check.out" || die "$(cat "$work/check.out")"
  note "$h: every acknowledged write found: $(sed 's/.*: ok, //' "$work/check.out")"
  mkdir "$work/$h.files"
  debugfs -R "rdump / $work/$h.files" "$work/$h.img" >/dev/null 2>&1
  diff -r --no-dereference --exclude=ledger --exclude=lost+found "$work/tree" "$work/$h.files" >"$work/diff.out" 2>&1 ||
    die "files differ on $h: $(head -n 5 "$work/diff.out")"
  rm -rf "$work/$h.files"
done
a=$(sha256sum <"$work/alpha.img")
b=$(sha256sum <"$work/beta.img")
[ "$a" = "$b" ] || die "the disks differ: $a $b"
note "both disks: sha256 ${a%% *}"

mib() { awk -v n="$1" 'BEGIN {printf "%.1f MiB", n / 1048576}'; }
printf '\nwritten %s, synced %s (blocks equal,different: %s), fetched %s of log, replayed %s on beta, %d seconds\n' \
  "$(mib $written)" "$(mib $size)" "$verify" "$(mib "$fetched")" "$(mib "$replayed")" $((SECONDS - started))
echo "demo: ok"
