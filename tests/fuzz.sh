#!/bin/bash
# Builds the fuzz targets below fuzz/ and runs each of them for FUZZ_SECONDS (default 20), all at the same time.
# Fails when one finds something. Uses the stable toolchain: RUSTC_BOOTSTRAP=1 lets it accept the flags of libFuzzer.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-20}
cargo=${CARGO:-cargo}
version=0.13.2
target_dir=fuzz/target # its own: other compiler flags, so in the common one everything would be built anew each time

case $seconds in
'' | 0 | *[!0-9]*)
	echo "fuzz: FUZZ_SECONDS must be a number of seconds above 0, not '$seconds'" >&2
	exit 2
	;;
esac

if ! "$cargo" fuzz --version >/dev/null 2>&1; then
	echo "fuzz: installing cargo-fuzz $version"
	"$cargo" install cargo-fuzz --version "$version" --locked --quiet
fi
if ! command -v c++ >/dev/null; then
	echo "fuzz: libFuzzer needs a C++ compiler; install g++" >&2
	exit 1
fi

# fuzz/ is no member of the workspace, so "make lint" does not reach it.
"$cargo" fmt --manifest-path fuzz/Cargo.toml --check
"$cargo" clippy --manifest-path fuzz/Cargo.toml --target-dir "$target_dir" --locked --quiet -- -D warnings

host=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_BOOTSTRAP=1 "$cargo" fuzz build --fuzz-dir fuzz --target-dir "$target_dir" --target "$host"
mapfile -t targets < <("$cargo" fuzz list --fuzz-dir fuzz)
if ((${#targets[@]} == 0)); then
	echo "fuzz: no targets found" >&2
	exit 1
fi

logs=$(mktemp -d)
pids=()
cleanup() {
	if ((${#pids[@]})); then
		kill "${pids[@]}" 2>/dev/null || true
	fi
	rm -rf "$logs"
}
trap cleanup EXIT

for t in "${targets[@]}"; do
	mkdir -p "fuzz/corpus/$t" "fuzz/artifacts/$t" "fuzz/seeds/$t"
	"$target_dir/$host/release/$t" -max_total_time="$seconds" -print_final_stats=1 -max_len=8192 -timeout=30 \
		-rss_limit_mb=2048 -artifact_prefix="fuzz/artifacts/$t/" "fuzz/corpus/$t" "fuzz/seeds/$t" >"$logs/$t" 2>&1 &
	pids+=($!)
done

failed=0
for i in "${!targets[@]}"; do
	t=${targets[i]}
	status=0
	wait "${pids[i]}" || status=$?
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$t" | tail -n 1)
	if ((status == 0)) && ((${runs:-0} > 0)); then
		echo "fuzz: $t: $runs executions in ${seconds} s, nothing found"
	else
		failed=1
		echo "fuzz: $t: FAILED (exit status $status) after ${runs:-?} executions" >&2
		grep -m 5 -A 2 -E 'panicked at|ERROR: |SUMMARY: ' "$logs/$t" >&2 || tail -n 60 "$logs/$t" >&2
		echo "fuzz: the input is below fuzz/artifacts/$t; run it again: $target_dir/$host/release/$t fuzz/artifacts/$t/FILE" >&2
	fi
done
pids=()
if ((failed)); then
	exit 1
fi
echo "fuzz: ok (${#targets[@]} targets)"
