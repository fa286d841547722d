#!/usr/bin/env bash
# Runs the checks, all of them even when one fails, and ends with a summary. Usage: check.sh lint | all
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
passed=0
failed=()
summary=()

check() { # check NAME COMMAND...
  local name=$1 started=$SECONDS
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  if "$@"; then
    passed=$((passed + 1))
    summary+=("$(printf '  ok      %-14s %4d s' "$name" $((SECONDS - started)))")
  else
    failed+=("$name")
    summary+=("$(printf '  FAILED  %-14s %4d s' "$name" $((SECONDS - started)))")
  fi
}

check "rust format" cargo fmt --all --check
check "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings
check "ruff" "$bin/ruff" check .
check "python format" "$bin/ruff" format --check .
check "mypy" "$bin/mypy" --strict python/octavo
check "stubtest" "$bin/python" -m mypy.stubtest octavo._core
if [ "${1:-all}" = all ]; then
  check "rust build" cargo test --workspace --locked --no-run
  check "rust tests" cargo test --workspace --locked --quiet
  check "pytest" "$bin/python" -m pytest
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
echo "$passed passed, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ]
