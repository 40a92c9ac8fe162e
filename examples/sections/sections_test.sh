#!/bin/bash
# The example runs and prints what it should.
set -euo pipefail
cd examples/sections
./sections | diff -u expected.txt -
