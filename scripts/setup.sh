#!/usr/bin/env bash
# Checks what must be there before octavo can be built, and makes the virtual environment. Usage: setup.sh FOLDER
set -euo pipefail
venv=$1

stop() {
  echo "octavo: $*" >&2
  exit 1
}

at_least() { # at_least 1.95.0 1.87
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

command -v cargo >/dev/null && command -v rustc >/dev/null || stop "cargo is missing: install Rust 1.87 or newer, then run this again"
rust=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || stop "rustc is there but does not run: see what 'rustc --version' says"
at_least "$rust" 1.87 || stop "Rust 1.87 or newer is needed, and rustc is $rust: update it (rustup update), then run this again"
command -v cc >/dev/null || stop "a C compiler is missing: install one (Debian: apt install build-essential), then run this again"

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -x "$venv/bin/python" ]; then
  usable "$venv/bin/python" || stop "$venv has a Python older than 3.11: run make clean, then this again"
else
  for python in python3 python3.14 python3.13 python3.12 python3.11 none; do
    usable "$python" && break
  done
  [ "$python" != none ] || stop "Python 3.11 or newer is missing: install it, then run this again"
  "$python" -c 'import ensurepip' 2>/dev/null || stop "$python cannot make virtual environments: install its venv module (Debian: apt install python3-venv), then run this again"
  "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
