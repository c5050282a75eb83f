#!/bin/bash
# soak.sh BIN_DIR: power cuts and kill -9 for MINUTES (default 10), side by side. The power cuts use all CPUs, as far as the kills leave them: what is
# killed runs with its usual priority. SEED=17 repeats one seed of the power cuts, SEED=k17 one of the kills. Ends with status 1 at the first violation, says
# its seed, and leaves nothing behind; with 10 minutes or more also when fewer than a million different states of power cuts were checked.
set -u
bins=$(realpath "$1")
minutes=${MINUTES:-10}
million=1000000
scene=${SCENE_SECONDS:-30}
dir=$(mktemp -d /tmp/mars-soak.XXXXXX)
tag=$(basename "$dir")-scene
power= chaos=

# Daemons of an interrupted scene: those whose directory has our name.
end_daemons() {
	local lock pid
	for lock in {/tmp,/dev/shm}/"$tag".*/*/run/units/*.lock; do
		pid=$(head -n 1 "$lock" 2>/dev/null)
		[[ $pid =~ ^[0-9]+$ ]] || continue
		grep -qz "^MARS_RUN_DIR=[^=]*/$tag[.]" "/proc/$pid/environ" 2>/dev/null && kill -9 "$pid" 2>/dev/null
	done
}

clean_up() {
	local pid
	for pid in $power $chaos; do
		kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
	done
	# Twice: a reconciler may just have been at work.
	end_daemons
	sleep 0.5
	end_daemons
	rm -rf "$dir" {/tmp,/dev/shm}/"$tag".*
}
trap clean_up EXIT
trap 'exit 130' INT TERM

run_chaos() { # SEED
	MARS_TEST_TAG=$tag MARS_TEST_BIN_DIR=$bins "$bins/chaos" "$1" "$scene" >"$dir/chaos.log" 2>&1 &
	chaos=$!
	# A scene that hangs is a violation, too.
	local end=$((SECONDS + scene + 300)) status
	while kill -0 "$chaos" 2>/dev/null; do
		if ((SECONDS > end)); then
			echo "kills: seed $1 hangs; again: make soak SEED=k$1" >&2
			return 1
		fi
		sleep 0.2
	done
	wait "$chaos"
	status=$?
	chaos=
	if ((status != 0)); then
		cat "$dir/chaos.log" >&2
		echo "kills: seed $1 failed; again: make soak SEED=k$1" >&2
		return 1
	fi
	tee -a "$dir/all.log" <"$dir/chaos.log"
}

case ${SEED:-} in
k*)
	run_chaos "${SEED#k}" || exit 1
	exit 0
	;;
?*)
	"$bins/soak" "SEED=$SEED" || exit 1
	exit 0
	;;
esac

first=$((RANDOM * 32768 + RANDOM))
echo "soak: $minutes minutes, power cuts from seed $first, kills from seed k$first"
goal=()
((minutes >= 10)) && goal=("GOAL=$million")
nice -n 10 "$bins/soak" "MINUTES=$minutes" "JOBS=$(nproc)" "FROM=$first" STATES=1000000000 "${goal[@]}" >"$dir/power.log" 2>&1 &
power=$!
end=$((SECONDS + minutes * 60))
seed=$first
scenes=0
while ((SECONDS < end)); do
	run_chaos "$seed" || exit 1
	((++seed, ++scenes))
	if ! kill -0 "$power" 2>/dev/null; then
		wait "$power" || break
	fi
done
wait "$power"
status=$?
power=
cat "$dir/power.log"
awk -v scenes="$scenes" '
	/ kills:/ { kills += $1 }
	/disks looked at/ { checks += $4; open += substr($6, 2) }
	/load:/ { writes += $2; for (i = 1; i < NF; i++) if ($i == "deaths") deaths += $(i - 1) }
	END { printf "kills: %d scenes, %d daemons killed (%d deaths of the device under load), %d disks looked at (%d with an open window), %d writes acknowledged: none lost\n",
		scenes, kills, deaths, checks, open, writes }' "$dir/all.log"
((status == 0)) || exit 1
((minutes >= 10)) || echo "soak: $minutes minutes; a million states are demanded of 10 minutes and more"
