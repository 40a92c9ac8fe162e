# The demo: the guest that checks itself is handed over by every mode in turn. Arguments are those of tools/demo.
#: files tools/demo_runner vmm/cpr-vmm tests/guest/payload.elf
#: seconds 600

./tools/demo_runner "$@"
