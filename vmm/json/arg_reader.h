#ifndef VMM_JSON_ARG_READER_H_
#define VMM_JSON_ARG_READER_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/json/json.h"

namespace cpr {

// Where an object's values come from. In a key=value list every value is text: booleans are on|off, numbers may have a
// suffix, a list is an object with the members 0, 1, ...
enum class ArgSource { kJson, kKeyValues };

// Reads the members of one object and complains in QEMU's words. The first complaint stays, what is read after it is
// meaningless, and Finish() returns it:
//
//   ArgReader args(object, ArgSource::kJson);
//   backend.id = args.RequiredString("id");
//   backend.share = args.Bool("share").value_or(false);
//   CPR_RETURN_IF_ERROR(args.Finish());
//
// Thread-compatible. `object` is lent and must outlive the reader.
class ArgReader {
 public:
  // `prefix` comes before each member's name in messages: "addr.".
  ArgReader(const JsonObject& object, ArgSource source, absl::string_view prefix = "")
      : object_(object), source_(source), prefix_(prefix) {}

  // Absent members: nullopt (or nullptr), and "Parameter 'x' is missing" from the Required ones.
  std::optional<std::string> String(absl::string_view name);
  std::string RequiredString(absl::string_view name);
  std::optional<bool> Bool(absl::string_view name);
  // A number of bytes; a number without suffix is in units of `unit_bytes`.
  std::optional<uint64_t> Size(absl::string_view name, uint64_t unit_bytes = 1);
  std::optional<uint64_t> Integer(absl::string_view name);
  std::optional<std::vector<std::string>> StringList(absl::string_view name);
  const JsonObject* Object(absl::string_view name);
  const JsonObject* RequiredObject(absl::string_view name);
  // Each object with its full name: "channels[0]".
  std::optional<std::vector<std::pair<std::string, const JsonObject*>>> ObjectList(absl::string_view name);

  // One of `allowed`; another text is "Parameter 'x' does not accept value 'y'".
  std::optional<std::string> OneOf(absl::string_view name, const std::vector<absl::string_view>& allowed);
  std::string RequiredOneOf(absl::string_view name, const std::vector<absl::string_view>& allowed);

  // Records `status` if it is the first error.
  void Fail(absl::Status status);
  // Records "Parameter 'x' is missing".
  void FailMissing(absl::string_view name);
  bool failed() const { return !status_.ok(); }
  ArgSource source() const { return source_; }
  std::string FullName(absl::string_view name) const { return prefix_ + std::string(name); }

  // The first error; "Parameter 'x' is unexpected" for a member that nobody asked for.
  absl::Status Finish();
  // The same of a device's properties: "Property 'driver.x' not found".
  absl::Status FinishProperties(absl::string_view driver);

 private:
  const JsonValue* Find(absl::string_view name);
  // A member that nobody asked for, or nullopt.
  std::optional<std::string> Unexpected() const;
  void FailType(absl::string_view name, absl::string_view expected);

  const JsonObject& object_;
  ArgSource source_;
  std::string prefix_;
  std::set<std::string> asked_;
  absl::Status status_;
};

// QEMU's sizes: decimal digits, perhaps a fraction, perhaps one of b k m g t p e (powers of 1024, either case), or 0x
// and hexadecimal digits. Without a suffix the number counts `unit_bytes`. nullopt for anything else and past 2^64.
std::optional<uint64_t> ParseSize(absl::string_view text, uint64_t unit_bytes = 1);

}  // namespace cpr

#endif  // VMM_JSON_ARG_READER_H_
