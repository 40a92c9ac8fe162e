#include "vmm/virtio/config.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace cpr {

std::string MacText(const MacAddress& mac) {
  return absl::StrJoin(mac, ":",
                       [](std::string* out, uint8_t byte) { absl::StrAppend(out, absl::Hex(byte, absl::kZeroPad2)); });
}

}  // namespace cpr
