// Sections: what an embedder saves of its machine, by name, and how.
//
//   SectionRegistry registry;
//   registry.Add({.info = {.name = "serial", .version = 2},
//                 .save = [&](std::string* payload) { return EncodeProto(ToProto(serial.Save()), payload); },
//                 .load = [&](absl::string_view payload, uint32_t version) { ...decode and validate into `staged`... },
//                 .apply = [&] { return serial.Restore(staged); }});
#ifndef LIBCPR_VMSTATE_SECTION_H_
#define LIBCPR_VMSTATE_SECTION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/section_info.h"

namespace cpr {

struct Section {
  SectionInfo info;
  // Appends the section's bytes. Must not change what it saves: the old side may have to run on.
  std::function<absl::Status(std::string* payload)> save;
  // Decodes and validates `payload`, written as `version`, into staging. Touches nothing live. `payload` is lent for
  // the call. May be called again, for another attempt.
  std::function<absl::Status(absl::string_view payload, uint32_t version)> load;
  // Puts what `load` staged into live objects. May be null: then `load` has done all there is to do.
  std::function<absl::Status()> apply;
  // May be null. Else asked at each save for the oldest reader of the state as it is then, instead of
  // info.min_reader_version: so that a feature that is not in use keeps nobody from going back (docs/compatibility.md).
  std::function<uint32_t()> oldest_reader;
};

// The sections of one machine, in the order in which they are saved, loaded and applied. Thread-compatible.
class SectionRegistry {
 public:
  // kInvalidArgument: `section.info` breaks a rule of SectionInfo, its (name, instance) is taken, or save or load is
  // missing. The registry is as before then.
  absl::Status Add(Section section);

  // Lives until the next Add() or Clear(); nullptr if there is none.
  const Section* Find(absl::string_view name, uint32_t instance) const;
  const std::vector<Section>& sections() const { return sections_; }
  // As they would be written now.
  std::vector<SectionInfo> Infos() const;
  // What this machine's sections would be able to read, each name once.
  std::vector<SectionSupport> Supported() const;
  void Clear();

 private:
  friend absl::Status LoadSections(SectionRegistry& registry, Stage stage, const ContainerReader& reader);
  friend absl::Status ApplySections(SectionRegistry& registry, Stage stage);

  std::vector<Section> sections_;
  absl::flat_hash_map<std::pair<std::string, uint32_t>, size_t> index_;
  std::vector<bool> staged_;  // of each section: loaded and not applied yet
};

// Adds every section of `stage` to `writer`, in order of registration. Does not finish it: both stages may go into
// one container. Errors name the section.
absl::Status SaveSections(const SectionRegistry& registry, Stage stage, ContainerWriter& writer);

// Lets each registered section of `stage` load its part of `reader`; nothing live is touched, whatever happens.
// Everything is matched first. kOutOfRange names every section that cannot be: one that nobody here knows and is not
// optional, one that needs a newer reader, one saved in the other stage.  kNotFound names every registered section
// that is not there and not optional.  Else what a load returned, the section's name before it.
absl::Status LoadSections(SectionRegistry& registry, Stage stage, const ContainerReader& reader);

// Applies, in order of registration, what the last LoadSections() of `stage` loaded: each section once. Stops at the
// first error, which names the section; the machine is then half restored and must not run.
absl::Status ApplySections(SectionRegistry& registry, Stage stage);

}  // namespace cpr

#endif  // LIBCPR_VMSTATE_SECTION_H_
