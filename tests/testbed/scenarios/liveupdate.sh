# Memory and state in a Live Update session outlive the kernel: after a kexec every page is there. What a kernel cannot preserve is refused by name.
#: files tests/liveupdate/refusals_test tests/liveupdate/kept_memory_test

if [ "$stage" = 1 ]; then
  ./tests/liveupdate/refusals_test
  ./tests/liveupdate/kept_memory_test --cpr-helper=Hold >/tmp/held &
  await "nothing is preserved" [ -s /tmp/held ]
  grep -qx held /tmp/held || fail "$(cat /tmp/held)"
  next_kernel
fi
./tests/liveupdate/kept_memory_test
