// Python's door to the CPU backend: pointers in, a count of invalid rows out. No checks, no policy: contract.py has
// them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace py = pybind11;
using namespace fastsample;

namespace {

// Reads the tuple that backends/cpu.py makes of a Case, in its order.
class Reader {
 public:
  explicit Reader(const py::tuple& items) : items_(items) {}
  template <class T>
  T next() {
    return items_[at_++].cast<T>();
  }
  template <class T>
  T* pointer() {
    return reinterpret_cast<T*>(next<uintptr_t>());
  }
  template <class T>
  Column<T> column() {  // a value for all rows, then the address of a value a row, or 0
    const T value = next<T>();
    return {value, pointer<const T>()};
  }

 private:
  const py::tuple& items_;
  size_t at_ = 0;
};

Call read_call(const py::tuple& arguments) {
  Reader in(arguments);
  Call call = {};
  call.logits = in.pointer<const void>();
  call.dtype = static_cast<Dtype>(in.next<int>());
  call.rows = in.next<int64_t>();
  call.vocab = in.next<int64_t>();
  call.row_stride = in.next<int64_t>();
  call.temperature = in.column<float>();
  call.top_k = in.column<int32_t>();
  call.top_p = in.column<float>();
  call.min_p = in.column<float>();
  call.seed = in.column<int64_t>();
  call.stream = in.column<int64_t>().rows;
  call.position = in.column<int64_t>();
  call.indices = in.column<int64_t>().rows;
  return call;
}

int64_t sample(const py::tuple& arguments, uintptr_t tokens, const std::array<uintptr_t, 6>& stats, int threads) {
  Call call = read_call(arguments);
  call.tokens = reinterpret_cast<int64_t*>(tokens);
  call.stats = {reinterpret_cast<float*>(stats[0]),   reinterpret_cast<float*>(stats[1]),
                reinterpret_cast<float*>(stats[2]),   reinterpret_cast<float*>(stats[3]),
                reinterpret_cast<int64_t*>(stats[4]), reinterpret_cast<int32_t*>(stats[5])};
  const py::gil_scoped_release without_gil;
  return sample_rows(call, threads);
}

int64_t distribution(const py::tuple& arguments, uintptr_t probabilities, int threads) {
  Call call = read_call(arguments);
  call.probabilities = reinterpret_cast<float*>(probabilities);
  const py::gil_scoped_release without_gil;
  return sample_rows(call, threads);
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

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "The CPU backend of fastsample.";
  m.def("sample", &sample);
  m.def("distribution", &distribution);
  m.def("instruction_set", [] { return std::string(worker()->name); });
  m.def("instruction_sets", &instruction_sets, "Those that this processor can run, best first.");
  m.def("use_instruction_set", &use_instruction_set, "For tests: every instruction set draws the same tokens.");
}
