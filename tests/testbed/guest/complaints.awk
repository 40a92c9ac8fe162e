# Of a Linux guest's dmesg, what a handover must not bring about: lockups, I/O errors, clocks that are apart.
#
# "Marking clocksource tsc unstable" alone says too little. After a gap of more than half a second the watchdog catches
# up: it compares the clocks again within microseconds, and then allows 1/256 of that for what one reading may be late,
# where the reading before may have been 50 us late (WATCHDOG_READOUT_MAX_NS in kernel/time/clocksource.c). So the
# intervals are compared here: clocks that a handover moved are apart by more.

{ line = tolower($0) }
line ~ /(soft|hard|workqueue) lockup|detected stall|blocked for more than/ { print; next }
line ~ /i\/o error|call trace|inter cpu skew/ { print; next }
line ~ /nvme.*(timeout|resetting|controller is down)/ { print; next }
line ~ /unstable due to/ && line !~ /frequency skew|clocksource watchdog/ { print; next }
/Watchdog .* interval: / { watchdog_ns = $NF + 0 }
/Clocksource .* interval: / {
  apart_ns = $NF - watchdog_ns
  if (apart_ns < 0) apart_ns = -apart_ns
  if (apart_ns > 50000) printf "%s, %d ns from the watchdog's\n", $0, apart_ns
}
