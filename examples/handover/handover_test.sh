#!/bin/bash
# Runs the example as its header says, and looks at what it prints.
set -eu
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$program" new "$folder/cpr.sock" > "$folder/new.txt" &
new=$!
for _ in $(seq 1000); do
  if [ -S "$folder/cpr.sock" ] && grep -q waiting "$folder/new.txt"; then break; fi
  read -rt 0.01 <> <(:) || :
done
"$program" old "$folder/cpr.sock"
wait "$new"
cat "$folder/new.txt"
grep -q '^new: the guest runs here, count 1000, step 5, paused for ' "$folder/new.txt"
grep -q '^new: count 1005$' "$folder/new.txt"
