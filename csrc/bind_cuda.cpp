// Python's way to the CUDA kernel: pointers and numbers in, an error code out. No checks, no policy.
#include "bind.h"
#include "cuda/sample.h"

using namespace fastsample;

namespace {

cuda::Workspace read_workspace(py::handle space, const Call& call) {
  Reader read(space);
  void* const memory = read.pointer<void>();
  const int splits = read.next<int>(), team = read.next<int>();
  read.finish();
  if (splits < 1) throw py::value_error("a row needs a block");
  return cuda::workspace_at(memory, call.rows, call.vocab, splits, team);
}

int sample(py::handle arguments, uintptr_t tokens, py::handle stats, py::handle space, uintptr_t stream) {
  Call call = read_call(arguments);
  call.tokens = reinterpret_cast<int64_t*>(tokens);
  call.stats = read_stats(stats);
  const cuda::Workspace work = read_workspace(space, call);
  return without_gil([&] { return cuda::sample(call, work, reinterpret_cast<void*>(stream)); });
}

int edit(py::handle arguments, py::handle numbers, uintptr_t rows, int64_t stride, uintptr_t stream) {
  const Call call = read_call(arguments);
  const Edits edits = read_edits(numbers);
  if (rows % 16 || stride < call.vocab || stride % 8) throw py::value_error("an edited row must start at 16 bytes");
  return without_gil(
      [&] { return cuda::edit(call, edits, reinterpret_cast<void*>(rows), stride, reinterpret_cast<void*>(stream)); });
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  name_arguments(m);
  m.def("sample", &sample, "Launches on a stream of the current device; returns a cudaError_t.");
  m.def("edit", &edit, "Writes edited rows, by a launch on a stream of the current device; returns a cudaError_t.");
  m.def("splits_for", &cuda::splits_for,
        "Blocks that share a row: (rows, vocab, blocks that the device runs at once).");
  m.def("team_for", &cuda::team_for,
        "Blocks that finish a row together: (rows, multiprocessors, blocks that a cluster may have).");
  m.def("error_name", &cuda::error_name, "What a cudaError_t means.");
  m.def("driver_version", &cuda::driver_version,
        "The newest CUDA that the driver knows, as 1000 * major + 10 * minor.");
  m.def("toolkit_version", &cuda::toolkit_version, "The CUDA that this was built with, likewise.");
  m.attr("architectures") = FASTSAMPLE_ARCHITECTURES;
}
