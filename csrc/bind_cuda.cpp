// Python's way to the CUDA kernel: pointers and numbers in, an error code out. No checks, no policy.
#include <pybind11/pybind11.h>

#include "cuda/sample.h"

namespace py = pybind11;
using namespace fastsample;

namespace {

template <class T>
T* pointer(const py::handle& address) {
  return reinterpret_cast<T*>(address.cast<uintptr_t>());
}

// (value for all rows, pointer to a value a row or 0), as the CPU's binding has them.
template <class T>
Column<T> column(const py::tuple& a, size_t at) {
  return {a[at].cast<T>(), pointer<const T>(a[at + 1])};
}

int sample(const py::tuple& a, int64_t tokens, const py::tuple& stats, const py::tuple& space, int64_t count,
           uintptr_t stream) {
  Call call = {};
  call.logits = pointer<const void>(a[0]);
  call.dtype = static_cast<Dtype>(a[1].cast<int>());
  call.rows = a[2].cast<int64_t>();
  call.vocab = a[3].cast<int64_t>();
  call.row_stride = a[4].cast<int64_t>();
  call.temperature = column<float>(a, 5);
  call.top_k = column<int32_t>(a, 7);
  call.top_p = column<float>(a, 9);
  call.min_p = column<float>(a, 11);
  call.seed = column<int64_t>(a, 13);
  call.stream = pointer<const int64_t>(a[16]);
  call.position = column<int64_t>(a, 17);
  call.indices = pointer<const int64_t>(a[20]);
  call.tokens = reinterpret_cast<int64_t*>(tokens);
  call.stats = {pointer<float>(stats[0]), pointer<float>(stats[1]),   pointer<float>(stats[2]),
                pointer<float>(stats[3]), pointer<int64_t>(stats[4]), pointer<int32_t>(stats[5])};
  const cuda::Workspace work = {pointer<float>(space[0]), pointer<int64_t>(space[1]), pointer<float>(space[2]),
                                pointer<unsigned>(space[3]), space[4].cast<int>()};
  const py::gil_scoped_release release;
  return cuda::sample(call, count, work, reinterpret_cast<void*>(stream));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.def("sample", &sample, "Launches on a stream of the current device; returns a cudaError_t.");
  m.def("splits_for", &cuda::splits_for, "Blocks that share a row: (rows, vocab, multiprocessors).");
  m.def("error_name", &cuda::error_name, "What a cudaError_t means.");
  m.def("driver_version", &cuda::driver_version,
        "The newest CUDA that the driver knows, as 1000 * major + 10 * minor.");
  m.def("toolkit_version", &cuda::toolkit_version, "The CUDA that this was built with, likewise.");
  m.attr("architectures") = FASTSAMPLE_ARCHITECTURES;
}
