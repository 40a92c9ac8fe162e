#include "vmm/options/memory_backend.h"

#include "absl/numeric/bits.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/json/arg_reader.h"
#include "vmm/options/chardev_option.h"
#include "vmm/options/key_values.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;

}  // namespace

absl::Status CheckMemoryBackend(const MemoryBackend& backend) {
  const auto refuse = [](absl::string_view why) { return absl::InvalidArgumentError(why); };
  if (!IsIdentifier(backend.id)) return refuse("Parameter 'id' expects an identifier");
  if (backend.size_bytes == 0) return refuse("can't create backend with size 0");
  if (backend.size_bytes % kPageBytes != 0) {
    return refuse(absl::StrCat("backend '", backend.id, "' size is not a multiple of the page size"));
  }
  if (backend.kind == MemoryBackendKind::kFile && backend.mem_path.empty()) return refuse("mem-path property not set");
  if (backend.align_bytes != 0 && !absl::has_single_bit(backend.align_bytes)) {
    return refuse("Parameter 'align' expects a power of 2");
  }
  if (backend.hugetlb_size_bytes != 0 && !backend.hugetlb) return refuse("'hugetlbsize' needs 'hugetlb=on'");
  if (backend.hugetlb_size_bytes != 0 && !absl::has_single_bit(backend.hugetlb_size_bytes)) {
    return refuse("Parameter 'hugetlbsize' expects a power of 2");
  }
  return absl::OkStatus();
}

absl::string_view MemoryBackendKindName(MemoryBackendKind kind) {
  switch (kind) {
    case MemoryBackendKind::kFile:
      return "memory-backend-file";
    case MemoryBackendKind::kMemfd:
      return "memory-backend-memfd";
    case MemoryBackendKind::kRam:
      return "memory-backend-ram";
    default:
      return "";
  }
}

absl::StatusOr<MemoryBackend> ParseMemoryBackend(absl::string_view text) {
  bool is_json = false;
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValuesOrJson(text, "qom-type", &is_json));
  ArgReader args(object, is_json ? ArgSource::kJson : ArgSource::kKeyValues);
  MemoryBackend backend;
  const std::string type = args.RequiredString("qom-type");
  if (args.failed()) return args.Finish();
  if (type == "memory-backend-file") backend.kind = MemoryBackendKind::kFile;
  if (type == "memory-backend-memfd") backend.kind = MemoryBackendKind::kMemfd;
  if (type == "memory-backend-ram") backend.kind = MemoryBackendKind::kRam;
  if (backend.kind == MemoryBackendKind::kUnspecified) {
    return absl::InvalidArgumentError(absl::StrCat("Parameter 'qom-type' does not accept value '", type, "'"));
  }
  backend.id = args.RequiredString("id");
  backend.size_bytes = args.Size("size").value_or(0);
  backend.share = args.Bool("share").value_or(backend.kind == MemoryBackendKind::kMemfd);
  backend.prealloc = args.Bool("prealloc").value_or(false);
  if (backend.kind == MemoryBackendKind::kFile) {
    backend.mem_path = args.String("mem-path").value_or("");
    backend.align_bytes = args.Size("align").value_or(0);
  }
  if (backend.kind == MemoryBackendKind::kMemfd) {
    backend.hugetlb = args.Bool("hugetlb").value_or(false);
    backend.hugetlb_size_bytes = args.Size("hugetlbsize").value_or(0);
  }
  CPR_RETURN_IF_ERROR(args.Finish());
  CPR_RETURN_IF_ERROR(CheckMemoryBackend(backend));
  return backend;
}

}  // namespace cpr
