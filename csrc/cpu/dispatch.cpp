#include "dispatch.h"

#include <atomic>
#include <cfenv>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../contract.h"
#include "cpuid.h"
#include "patches.h"
#include "threads.h"

namespace fastsample {
namespace {

struct Available {
  const Worker* list[4] = {};
  Available() {
    int n = 0;
#if defined(__x86_64__)
    const int level = x86_64_level(this_processor());
    if (level >= 4) list[n++] = &kAvx512;
    if (level >= 3) list[n++] = &kAvx2;
    list[n++] = &kSse2;
#else
    list[n++] = &kNeon;
#endif
  }
};
const Available available;
std::atomic<const Worker*> chosen{available.list[0]};

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};

struct NoScratch : std::bad_alloc {
  const char* what() const noexcept override {
    return "there is no memory for the sampler's scratch: a thread needs up to 36 bytes for every 256 tokens of the "
           "vocabulary, and 40 KB beside; for logits that are edited also room for a copy of a row";
  }
};

// Memory that a thread keeps from call to call.
class Keep {
 public:
  // Whether there is room for so many bytes.
  bool reserve(size_t bytes) {
    const size_t needed = (bytes + 63) / 64 * 64;
    if (needed <= size_) return true;
    memory_.reset();
    memory_.reset(std::aligned_alloc(64, needed));
    size_ = memory_ ? needed : 0;
    return size_ > 0;
  }
  void* memory() const { return memory_.get(); }

 private:
  std::unique_ptr<void, FreeAligned> memory_;
  size_t size_ = 0;
};

// What a row is worked out in; a thread keeps it too.
class Desk {
 public:
  // Whether there is room for so many chunks; of logits of so many bytes where the row is edited, else 0.
  bool reserve(int64_t chunks, int64_t edited_bytes) {
    chunks_ = chunks;
    is_edited_ = edited_bytes > 0;
    return scratch_.reserve(Scratch::bytes(chunks)) &&
           (!is_edited_ || patches_.reserve(Patches::bytes(chunks, edited_bytes)));
  }
  Scratch scratch() const {
    Scratch s = Scratch::in(scratch_.memory(), chunks_);
    if (is_edited_) s.patches = Patches::in(patches_.memory(), chunks_);
    return s;
  }

 private:
  Keep scratch_, patches_;
  int64_t chunks_ = 0;
  bool is_edited_ = false;
};

// The contract allows no flush of denormals, whatever the process has set.
class DefaultArithmetic {
 public:
  DefaultArithmetic() {
    fegetenv(&before_);
    fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { fesetenv(&before_); }

 private:
  fenv_t before_;
};

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

// Null where there is no such row: the output row is then one without a finite logit, and nothing is read.
const void* row_of(const Call& call, int64_t b) {
  const int64_t row = call.indices ? call.indices[b] : b;
  if (row < 0 || row >= call.count) return nullptr;
  return static_cast<const char*>(call.logits) + row * call.row_stride * bytes_of(call.dtype);
}

using Patch = void (*)(const Call&, const Edits&, const void* logits, int64_t b, int64_t first, int64_t last,
                       const Patches&);
constexpr Patch kPatch[3] = {patch<Dtype::kFloat32>, patch<Dtype::kBfloat16>, patch<Dtype::kFloat16>};  // by Dtype

struct Run {
  const Call& call;
  const Edits& edits;
  int64_t edited_bytes;  // of a logit, 0 where none is edited
  const Worker::Of& worker;
  int64_t chunks;
  int parts_per_row;
  std::atomic<int64_t> invalid{0};
  std::atomic<bool> lacks_memory{false};  // a helper thread cannot throw: the caller does

  // For rows that several threads share:
  std::vector<Desk> desks;
  std::vector<Scratch> scratch;
  std::unique_ptr<std::atomic<int>[]> left;  // parts of a row that are still being weighed
  std::unique_ptr<std::atomic<bool>[]> is_odd;
};

void finish(Run& run, int64_t b, bool is_odd, const Scratch& scratch) {
  const void* row = row_of(run.call, b);
  if (!row) write_invalid(run.call, b, kNoFinite);
  if (!row || !run.worker.finish(run.call, row, b, is_odd, scratch)) run.invalid.fetch_add(1);
}

bool weigh(Run& run, int64_t b, int64_t first, int64_t last, const Scratch& scratch) {
  bool is_odd = false;
  const void* row = row_of(run.call, b);
  if (row && run.edited_bytes) {
    kPatch[static_cast<int>(run.call.dtype)](run.call, run.edits, row, b, first, last, scratch.patches);
  }
  if (row) run.worker.weigh(run.call, row, b, first, last, scratch, &is_odd);
  return is_odd;
}

void whole_row(void* context, int64_t b) {
  thread_local Desk desk;
  Run& run = *static_cast<Run*>(context);
  if (!desk.reserve(run.chunks, run.edited_bytes)) {
    run.lacks_memory = true;
    return;
  }
  const DefaultArithmetic arithmetic;
  const Scratch scratch = desk.scratch();
  finish(run, b, weigh(run, b, 0, run.chunks, scratch), scratch);
}

// A part of a row's chunks; whoever brings the last part finishes the row.
void part_of_row(void* context, int64_t part) {
  Run& run = *static_cast<Run*>(context);
  const DefaultArithmetic arithmetic;
  const int64_t b = part / run.parts_per_row, p = part % run.parts_per_row;
  const int64_t first = run.chunks * p / run.parts_per_row, last = run.chunks * (p + 1) / run.parts_per_row;
  if (weigh(run, b, first, last, run.scratch[b])) run.is_odd[b].store(true, std::memory_order_relaxed);
  if (run.left[b].fetch_sub(1, std::memory_order_acq_rel) == 1) finish(run, b, run.is_odd[b], run.scratch[b]);
}

}  // namespace

const Worker* const* workers() { return available.list; }
const Worker* worker() { return chosen.load(); }
void use(const Worker* wanted) { chosen.store(wanted); }

int64_t sample_rows(const Call& call, int threads, const Edits& edits) {
  const int64_t chunks = (call.vocab + kChunk - 1) / kChunk;
  const int64_t edited_bytes = edits.entries || edits.allowed ? bytes_of(call.dtype) : 0;
  Run run{call, edits, edited_bytes, worker()->of[static_cast<int>(call.dtype)], chunks, 1, {}, {}, {}, {}, {}, {}};
  constexpr int64_t kWorthSharing = 64;  // chunks: 16,384 tokens take about 5 us, as long as waking a thread
  const int64_t parts = call.rows ? threads / call.rows : 0;
  run.parts_per_row = static_cast<int>(parts < chunks / kWorthSharing ? parts : chunks / kWorthSharing);
  if (run.parts_per_row < 2) {
    run_parts(threads, call.rows, whole_row, &run);
    if (run.lacks_memory) throw NoScratch();
    return run.invalid;
  }
  run.desks.resize(call.rows);
  run.left = std::make_unique<std::atomic<int>[]>(call.rows);
  run.is_odd = std::make_unique<std::atomic<bool>[]>(call.rows);
  for (int64_t b = 0; b < call.rows; ++b) {
    if (!run.desks[b].reserve(chunks, edited_bytes)) throw NoScratch();
    run.scratch.push_back(run.desks[b].scratch());
    run.left[b] = run.parts_per_row;
    run.is_odd[b] = false;
  }
  run_parts(threads, call.rows * run.parts_per_row, part_of_row, &run);
  return run.invalid;
}

}  // namespace fastsample
