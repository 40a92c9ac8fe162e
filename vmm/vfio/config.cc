#include "vmm/vfio/config.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace cpr {
namespace {

// SimpleHexAtoi alone would take signs, spaces and "0x".
bool ParseHex(absl::string_view text, uint32_t max, uint32_t* value) {
  return std::all_of(text.begin(), text.end(), absl::ascii_isxdigit) && absl::SimpleHexAtoi(text, value) &&
         *value <= max;
}

}  // namespace

std::optional<std::string> CanonicalHostAddress(absl::string_view text) {
  std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() == 2) parts.insert(parts.begin(), "0");
  if (parts.size() != 3) return std::nullopt;
  const std::vector<absl::string_view> last = absl::StrSplit(parts[2], '.');
  uint32_t domain, bus, device, function;
  if (last.size() != 2 || !ParseHex(parts[0], 0xffff, &domain) || !ParseHex(parts[1], 0xff, &bus) ||
      !ParseHex(last[0], 0x1f, &device) || !ParseHex(last[1], 7, &function)) {
    return std::nullopt;
  }
  return absl::StrFormat("%04x:%02x:%02x.%x", domain, bus, device, function);
}

std::optional<std::string> HostAddressOfFolder(absl::string_view path) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::canonical(std::string(path), error);
  return error ? std::nullopt : CanonicalHostAddress(folder.filename().string());
}

}  // namespace cpr
