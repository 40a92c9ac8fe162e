// Save and restore latency of sections, and where it goes: encoding, decoding, framing, checksums.
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "google/protobuf/arena.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"
#include "libcpr/vmstate/section.h"
#include "proto/cpr/v1/fds.pb.h"

namespace {

using cpr::v1::FdManifest;

constexpr size_t kSectionBytes = 2048;  // some device's state: a container of N bytes has N / 2048 sections
constexpr int kMin = 4 << 10, kMax = 1 << 20;

// Some 2 KiB of small structured messages, which cost more to decode than any blob.
FdManifest MakeState() {
  FdManifest state;
  for (uint32_t i = 0; state.ByteSizeLong() < kSectionBytes; ++i) {
    cpr::v1::FdEntry& entry = *state.add_entries();
    entry.set_name("virtio-net");
    entry.set_instance(i);
    entry.set_kind(cpr::v1::FD_KIND_TAP);
    entry.set_fd_index(i);
    entry.set_size_bytes(uint64_t{i} << 30);
  }
  return state;
}

void CheckOk(benchmark::State& state, const absl::Status& status) {
  if (!status.ok()) state.SkipWithError(status.ToString().c_str());
}

// A machine with `total_bytes` of state; all sections share one message, staged on one arena.
class Machine {
 public:
  explicit Machine(int64_t total_bytes) {
    for (uint32_t i = 0; i < total_bytes / kSectionBytes; ++i) {
      const absl::Status added =
          registry.Add({.info = {.name = "device", .instance = i},
                        .save = [this](std::string* payload) { return cpr::EncodeProto(message_, payload); },
                        .load =
                            [this](absl::string_view payload, uint32_t version) {
                              return cpr::DecodeProto<FdManifest>(payload, version, 1, &arena).status();
                            }});
      if (!added.ok()) std::abort();
    }
  }

  absl::Status Save(std::string* bytes) {
    cpr::ContainerWriter writer(bytes);
    if (absl::Status status = cpr::SaveSections(registry, cpr::Stage::kLate, writer); !status.ok()) return status;
    return writer.Finish();
  }

  absl::Status Restore(const std::string& bytes) {
    const auto reader = cpr::ContainerReader::Parse(bytes);
    return reader.ok() ? cpr::LoadSections(registry, cpr::Stage::kLate, *reader) : reader.status();
  }

  cpr::SectionRegistry registry;
  google::protobuf::Arena arena;

 private:
  FdManifest message_ = MakeState();
};

void BM_SectionEncode(benchmark::State& state) {
  Machine machine(state.range(0));
  std::string bytes;
  for (auto _ : state) CheckOk(state, machine.Save(&bytes));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes.size()));
  state.counters["sections"] = static_cast<double>(machine.registry.sections().size());
}
BENCHMARK(BM_SectionEncode)->RangeMultiplier(4)->Range(kMin, kMax);

void BM_SectionDecode(benchmark::State& state) {
  Machine machine(state.range(0));
  std::string bytes;
  CheckOk(state, machine.Save(&bytes));
  for (auto _ : state) {
    CheckOk(state, machine.Restore(bytes));
    machine.arena.Reset();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes.size()));
  state.counters["sections"] = static_cast<double>(machine.registry.sections().size());
}
BENCHMARK(BM_SectionDecode)->RangeMultiplier(4)->Range(kMin, kMax);

// One message without the container around it: what the arena and the search for unknown fields do.
void BM_ProtoDecodeArena(benchmark::State& state) {
  const std::string payload = MakeState().SerializeAsString();
  google::protobuf::Arena arena;
  for (auto _ : state) {
    CheckOk(state, cpr::DecodeProto<FdManifest>(payload, 1, 1, &arena).status());
    arena.Reset();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(payload.size()));
}
BENCHMARK(BM_ProtoDecodeArena);

void BM_ProtoDecodeHeap(benchmark::State& state) {
  const std::string payload = MakeState().SerializeAsString();
  for (auto _ : state) CheckOk(state, cpr::DecodeProto<FdManifest>(payload, 1, 1).status());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(payload.size()));
}
BENCHMARK(BM_ProtoDecodeHeap);

void BM_ProtoDecodeBare(benchmark::State& state) {  // protobuf alone: what to compare with
  const std::string payload = MakeState().SerializeAsString();
  google::protobuf::Arena arena;
  for (auto _ : state) {
    benchmark::DoNotOptimize(google::protobuf::Arena::CreateMessage<FdManifest>(&arena)->ParseFromString(payload));
    arena.Reset();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(payload.size()));
}
BENCHMARK(BM_ProtoDecodeBare);

// Framing and checksums without protobuf payloads: one section of raw bytes.
void BM_ContainerWrite(benchmark::State& state) {
  const std::string payload(static_cast<size_t>(state.range(0)), 'x');
  std::string bytes;
  for (auto _ : state) {
    cpr::ContainerWriter writer(&bytes);
    CheckOk(state, writer.Add({.name = "raw"}, [&payload](std::string* out) {
      out->append(payload);
      return absl::OkStatus();
    }));
    CheckOk(state, writer.Finish());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes.size()));
}
BENCHMARK(BM_ContainerWrite)->RangeMultiplier(4)->Range(kMin, kMax);

void BM_ContainerParse(benchmark::State& state) {
  std::string bytes;
  cpr::ContainerWriter writer(&bytes);
  CheckOk(state, writer.Add({.name = "raw"}, [&state](std::string* out) {
    out->append(static_cast<size_t>(state.range(0)), 'x');
    return absl::OkStatus();
  }));
  CheckOk(state, writer.Finish());
  for (auto _ : state) CheckOk(state, cpr::ContainerReader::Parse(bytes).status());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes.size()));
}
BENCHMARK(BM_ContainerParse)->RangeMultiplier(4)->Range(kMin, kMax);

void BM_Crc32c(benchmark::State& state) {
  const std::string bytes(static_cast<size_t>(state.range(0)), 'x');
  for (auto _ : state) benchmark::DoNotOptimize(cpr::Crc32c(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Crc32c)->RangeMultiplier(4)->Range(kMin, kMax);

}  // namespace

BENCHMARK_MAIN();
