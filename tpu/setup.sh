#!/usr/bin/env bash
# Makes a bare TPU VM ready: Python 3.11 or newer, a virtual environment, Lectern's dependencies for TPUs.
#
#   bash tpu/setup.sh [VENV]           default: .venv beside the code
#
# What is there already is left alone, so running it again costs a second. EXTRA=gpu or EXTRA= installs for other machines.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
extra=${EXTRA-tpu}
stamp="$venv/.installed-$extra-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)"
if [[ -e $stamp ]]; then
  echo "ready: $venv"
  exit 0
fi

new_enough() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if new_enough "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

if ! python=$(find_python); then
  # The TPU images are Ubuntu 22.04, whose own Python is 3.10; a machine that has just come up may still be
  # installing updates of its own, which holds the lock.
  if ! command -v apt-get >/dev/null; then
    echo "error: no Python 3.11 or newer, and no apt-get to install one; set PYTHON=/path/to/python3" >&2
    exit 1
  fi
  echo "installing python3.11"
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq update
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq -y install python3.11 python3.11-venv
  python=$(find_python) || { echo "error: python3.11 was installed but does not work" >&2; exit 1; }
fi

if [[ ! -x $venv/bin/python ]] || ! new_enough "$venv/bin/python"; then
  "$python" -m venv --clear "$venv"
fi
echo "installing lectern${extra:+[$extra]} into $venv with $("$venv/bin/python" --version)"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --retries 10 -c constraints.txt -e ".${extra:+[$extra]}"
rm -f "$venv"/.installed-*
touch "$stamp"
echo "ready: $venv"
