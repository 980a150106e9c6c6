// Python's door to the CPU backend: pointers in, a count of invalid rows out. No checks, no policy: contract.py has
// them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bind.h"
#include "cpu/cpuid.h"
#include "cpu/dispatch.h"

using namespace fastsample;

namespace {

#ifdef __clang__
const char* const COMPILER = "clang " __clang_version__;
#elif defined(__GNUC__)
const char* const COMPILER = "gcc " __VERSION__;
#else
const char* const COMPILER = "unknown";
#endif

int64_t draw(const Call& call, int threads, py::handle numbers) {
  const Edits edits = read_edits(numbers);
  return without_gil([&] { return sample_rows(call, threads, edits); });
}

int64_t sample(py::handle arguments, uintptr_t tokens, py::handle stats, int threads, py::handle edits) {
  Call call = read_call(arguments);
  call.tokens = reinterpret_cast<int64_t*>(tokens);
  call.stats = read_stats(stats);
  return draw(call, threads, edits);
}

int64_t distribution(py::handle arguments, uintptr_t probabilities, int threads, py::handle edits) {
  Call call = read_call(arguments);
  call.probabilities = reinterpret_cast<float*>(probabilities);
  return draw(call, threads, edits);
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Worker* const* w = workers(); *w; ++w) names.emplace_back((*w)->name);
  return names;
}

void use_instruction_set(const std::string& name) {
  for (const Worker* const* w = workers(); *w; ++w) {
    if (name == (*w)->name) return use(*w);
  }
  throw py::value_error("this processor cannot run the instruction set " + name);
}

#if defined(__x86_64__)
int level(uint32_t leaf_1_ecx, uint32_t leaf_7_ebx, uint32_t extended_ecx, uint64_t saved) {
  return x86_64_level({leaf_1_ecx, leaf_7_ebx, extended_ecx, saved});
}
#endif

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "The CPU backend of fastsample.";
  name_arguments(m);
  m.def("sample", &sample);
  m.def("distribution", &distribution);
  m.attr("compiler") = COMPILER;
  m.def("instruction_set", [] { return std::string(worker()->name); });
  m.def("instruction_sets", &instruction_sets, "Those that this processor can run, best first.");
  m.def("use_instruction_set", &use_instruction_set, "For tests: every instruction set draws the same tokens.");
#if defined(__x86_64__)
  m.def("x86_64_level", &level, "For tests: of the words of CPUID and XGETBV, 4, 3 or 1.");
#endif
}
