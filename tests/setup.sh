#!/usr/bin/env bash
# Installs the Debian packages that a target needs and that are missing. Usage: tests/setup.sh build|package|demo|cluster|test|bench
set -euo pipefail

build=(gcc)
demo=("${build[@]}" libnbd-bin python3-libnbd qemu-utils e2fsprogs)
package=("${build[@]}" binutils dpkg-dev rpm)
cluster=("${package[@]}" e2fsprogs iproute2 mmdebstrap mount systemd-container util-linux)
test=("${demo[@]}" "${cluster[@]}" g++ fio xfsprogs fuse3 systemd dbus lintian mandoc man-db udev bash-completion zsh fish)
bench=("${test[@]}" nbdkit libnbd-dev rsync postgresql)

case "${1:-}" in
build) want=("${build[@]}") ;;
package) want=("${package[@]}") ;;
demo) want=("${demo[@]}") ;;
cluster) want=("${cluster[@]}") ;;
test) want=("${test[@]}") ;;
bench) want=("${bench[@]}") ;;
*)
  echo "usage: $0 build|package|demo|cluster|test|bench" >&2
  exit 2
  ;;
esac

missing=()
for p in "${want[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null; then
    as_root=(sudo)
  else
    echo "these Debian packages are missing: ${missing[*]}; install them as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
