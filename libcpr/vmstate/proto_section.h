// Sections whose payload is one protobuf message, as most are.
//
//   registry.Add(ProtoSection<v1::SerialState>(
//       {.name = "serial", .version = 2}, [&](v1::SerialState* proto) { ... },
//       [&](const v1::SerialState& proto) { ...validate into `staged`... }, [&] { return serial.Restore(staged); }));
#ifndef LIBCPR_VMSTATE_PROTO_SECTION_H_
#define LIBCPR_VMSTATE_PROTO_SECTION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "google/protobuf/arena.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/vmstate/proto_payload.h"
#include "libcpr/vmstate/section.h"

namespace cpr {

// `save` fills an empty message; `load` validates one and stages what it says. Otherwise they, and `apply`, are as in
// Section. `info.version` is also the newest version that can be read.
template <typename Proto>
Section ProtoSection(SectionInfo info, std::function<absl::Status(Proto*)> save,
                     std::function<absl::Status(const Proto&)> load, std::function<absl::Status()> apply = nullptr) {
  const uint32_t known_version = info.version;
  Proto::descriptor();  // made on first use, which takes longer than to decode: not while a guest stands still
  Section section;
  section.info = std::move(info);
  // In arenas: state has many small messages, and most of the time to decode them would go into allocating each.
  section.save = [save = std::move(save)](std::string* payload) -> absl::Status {
    google::protobuf::Arena arena;
    Proto* proto = google::protobuf::Arena::CreateMessage<Proto>(&arena);
    CPR_RETURN_IF_ERROR(save(proto));
    return EncodeProto(*proto, payload);
  };
  section.load = [load = std::move(load), known_version](absl::string_view payload, uint32_t version) -> absl::Status {
    google::protobuf::Arena arena;
    CPR_ASSIGN_OR_RETURN(const Proto* proto, DecodeProto<Proto>(payload, version, known_version, &arena));
    return load(*proto);
  };
  section.apply = std::move(apply);
  return section;
}

}  // namespace cpr

#endif  // LIBCPR_VMSTATE_PROTO_SECTION_H_
