# shellcheck shell=bash
# What the bash tools of this folder share. Sourced; sets `root`, the checkout's top folder, and goes there.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$(basename "$0"): $*"
  exit 1
}

# The build in words: one line every 15 s where nobody watches a terminal, Bazel's own display where somebody does.
# Bazel's server reads no stdin, but its client would wait for a closed one.
run_bazel() {
  local command=$1
  shift
  local -a display=(--color=no --curses=no --show_progress_rate_limit=15)
  if [[ -t 2 ]]; then display=(); fi
  bazel "$command" "${display[@]}" "$@" </dev/null
}
