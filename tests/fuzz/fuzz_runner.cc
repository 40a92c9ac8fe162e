// Runs FuzzOne on every file of a corpus, then on mutations of them: the same ones each time, so that a failure comes
// back. Built with -DCPR_LIBFUZZER, clang's libFuzzer looks for inputs instead (tests/fuzz/README.md).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

#if defined(CPR_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzOne(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}

#else

namespace {

// About a second's work for an optimized parser; the clock bounds slow machines and sanitizers.
constexpr int kMutations = 300'000;
constexpr std::chrono::seconds kTimeLimit(10);

std::vector<std::string> ReadCorpus(int argc, char** argv) {
  std::vector<std::string> paths(argv + 1, argv + argc);
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "%s cannot be read\n", path.c_str());
      std::exit(1);
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus) {}

  std::string Next() {
    std::string input = corpus_[Below(corpus_.size())];
    for (size_t i = 0, changes = 1 + Below(4); i < changes; ++i) Change(input);
    return input;
  }

 private:
  // Sizes, counts and offsets go wrong at their edges.
  static constexpr uint64_t kEdges[] = {0,    1,      7,      8,          0x7f,       0x80,
                                        0xff, 0x1000, 0xffff, 0x7fffffff, 0xffffffff, ~uint64_t{0}};

  size_t Below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void Change(std::string& input) {
    const size_t at = Below(input.size() + 1);
    switch (Below(6)) {
      case 0:
        if (at < input.size()) input[at] = static_cast<char>(random_());
        break;
      case 1:
        if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
        break;
      case 2:
        WriteEdge(input, at);
        break;
      case 3:
        input.resize(at);
        break;
      case 4:
        input.insert(at, input.substr(Below(input.size() + 1), Below(64)));
        break;
      case 5:
        Splice(input, at);
        break;
    }
  }

  void WriteEdge(std::string& input, size_t at) {
    const uint64_t value = kEdges[Below(std::size(kEdges))];
    const size_t width = size_t{1} << Below(4);
    for (size_t i = 0; i < width && at + i < input.size(); ++i) input[at + i] = static_cast<char>(value >> (8 * i));
  }

  void Splice(std::string& input, size_t at) {
    const std::string& other = corpus_[Below(corpus_.size())];
    input = input.substr(0, at) + other.substr(Below(other.size() + 1));
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_{1};
};

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> corpus = ReadCorpus(argc, argv);
  if (corpus.empty()) {
    std::fputs("usage: fuzz CORPUS_FILE...\n", stderr);
    return 2;
  }
  for (const std::string& input : corpus) FuzzOne(input);
  Mutator mutator(corpus);
  const auto end = std::chrono::steady_clock::now() + kTimeLimit;
  int done = 0;
  while (done < kMutations && std::chrono::steady_clock::now() < end) {
    FuzzOne(mutator.Next());
    ++done;
  }
  std::printf("%zu files and %d mutations of them\n", corpus.size(), done);
  return 0;
}

#endif  // CPR_LIBFUZZER
