#ifndef TESTS_KVM_ALTERED_STATE_H_
#define TESTS_KVM_ALTERED_STATE_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "libcpr/vmstate/container.h"

namespace cpr {

// The container `state` with another description or payload of its section (`name`, `instance`), which there must be.
// Its ownership word and all checksums are as they should be: only what the section says is wrong.
std::string AlterSection(const std::string& state, absl::string_view name, uint32_t instance,
                         absl::FunctionRef<void(SectionInfo& info, std::string& payload)> alter);

// The same for a section whose payload is a `Proto`.
template <typename Proto>
std::string AlterProto(const std::string& state, absl::string_view name, uint32_t instance,
                       absl::FunctionRef<void(Proto& proto)> alter) {
  return AlterSection(state, name, instance, [&](SectionInfo&, std::string& payload) {
    Proto proto;
    if (proto.ParseFromString(payload)) alter(proto);
    payload = proto.SerializeAsString();
  });
}

}  // namespace cpr

#endif  // TESTS_KVM_ALTERED_STATE_H_
