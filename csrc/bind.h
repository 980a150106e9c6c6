// How both bindings read a call: a flat tuple of numbers and addresses, which backends/arguments.py makes of a Case.
//
// An address is trusted to be of as much memory as the sizes say; the sizes themselves are looked at.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <new>
#include <string>

#include "args.h"

namespace fastsample {

namespace py = pybind11;

// Visits every argument in the order of the tuple. One function both reads and names them, so that Python can compare
// its order with this one.
template <class Visitor>
void visit_arguments(Call& call, Visitor& visit) {
  visit("logits", call.logits);
  visit("dtype", call.dtype);
  visit("count", call.count);
  visit("rows", call.rows);
  visit("vocab", call.vocab);
  visit("row_stride", call.row_stride);
  visit("temperature", call.temperature);
  visit("top_k", call.top_k);
  visit("top_p", call.top_p);
  visit("min_p", call.min_p);
  visit("seed", call.seed);
  visit("stream", call.stream);
  visit("position", call.position);
  visit("indices", call.indices);
}

template <class Visitor>
void visit_edits(Edits& edits, Visitor& visit) {
  visit("entries", edits.entries);
  visit("ids", edits.ids);
  visit("counts", edits.counts);
  visit("biases", edits.biases);
  visit("repetition", edits.repetition);
  visit("frequency", edits.frequency);
  visit("presence", edits.presence);
  visit("allowed", edits.allowed);
  visit("allowed_stride", edits.allowed_stride);
}

template <class Visitor>
void visit_stats(Stats& stats, Visitor& visit) {
  visit("logprob", stats.logprob);
  visit("raw_logprob", stats.raw_logprob);
  visit("entropy", stats.entropy);
  visit("self_certainty", stats.self_certainty);
  visit("kept", stats.kept);
  visit("status", stats.status);
}

// Functions that let go of the GIL take py::handle, which holds no reference: see without_gil.
inline py::tuple tuple_of(py::handle given) {
  if (!py::isinstance<py::tuple>(given)) throw py::type_error("arguments must be tuples of numbers");
  return py::reinterpret_borrow<py::tuple>(given);
}

class Reader {
 public:
  explicit Reader(py::handle items) : items_(tuple_of(items)) {}

  void operator()(const char*, int64_t& number) { number = next<int64_t>(); }
  void operator()(const char*, Dtype& dtype) { dtype = static_cast<Dtype>(next<int>()); }
  template <class T>
  void operator()(const char*, T*& address) {
    address = pointer<T>();
  }
  template <class T>
  void operator()(const char*, Column<T>& column) {  // a value for all rows, then the address of a value a row, or 0
    column.value = next<T>();
    column.rows = pointer<const T>();
  }
  // `stream` and `indices` are columns to Python, whose value for all rows is not one: null means the row's number.
  void operator()(const char*, const int64_t*& rows) {
    next<int64_t>();
    rows = pointer<const int64_t>();
  }

  template <class T>
  T next() {
    if (at_ == items_.size()) throw py::value_error("the tuple of arguments is too short");
    return items_[at_++].cast<T>();
  }
  template <class T>
  T* pointer() {
    return reinterpret_cast<T*>(next<uintptr_t>());
  }
  void finish() const {
    if (at_ != items_.size()) throw py::value_error("the tuple of arguments is too long");
  }

 private:
  const py::tuple items_;
  size_t at_ = 0;
};

struct Namer {
  py::list names;
  template <class T>
  void operator()(const char* name, T&) {
    names.append(name);
  }
};

inline Call read_call(py::handle arguments) {
  Call call = {};
  Reader read(arguments);
  visit_arguments(call, read);
  read.finish();
  const int dtype = static_cast<int>(call.dtype);
  if (dtype < 0 || dtype > 2) throw py::value_error("no dtype has the code " + std::to_string(dtype));
  if (call.count < 0 || call.rows < 0 || call.vocab < 1 || call.vocab >= int64_t{1} << 31) {
    throw py::value_error("a size is out of range");
  }
  return call;
}

// An empty tuple where nothing is done to the logits.
inline Edits read_edits(py::handle numbers) {
  Edits edits = {};
  if (tuple_of(numbers).empty()) return edits;
  Reader read(numbers);
  visit_edits(edits, read);
  read.finish();
  if (edits.entries < 0) throw py::value_error("a size is out of range");
  return edits;
}

inline Stats read_stats(py::handle addresses) {
  Stats stats = {};
  Reader read(addresses);
  visit_stats(stats, read);
  read.finish();
  return stats;
}

// What `work` returns, done without the GIL. Not py::gil_scoped_release: where the interpreter is ending, taking the
// GIL again ends the thread by unwinding it, and out of a destructor that would end the process. What is unwound must
// hold no Python object either: its count would be changed without the GIL.
template <class Work>
auto without_gil(const Work& work) {
  PyThreadState* const state = PyEval_SaveThread();
  decltype(work()) result = {};
  std::exception_ptr error;
  try {
    result = work();
  } catch (const std::bad_alloc&) {
    error = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (error) std::rethrow_exception(error);
  return result;
}

// What a test compares with Python's order.
inline void name_arguments(py::module_& m) {
  Call call = {};
  Stats stats = {};
  Edits edits = {};
  Namer arguments, statistics, changes;
  visit_arguments(call, arguments);
  visit_stats(stats, statistics);
  visit_edits(edits, changes);
  m.attr("argument_names") = py::tuple(arguments.names);
  m.attr("stats_names") = py::tuple(statistics.names);
  m.attr("edit_names") = py::tuple(changes.names);
}

}  // namespace fastsample
