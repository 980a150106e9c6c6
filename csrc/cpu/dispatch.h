// One call on the CPU: which instruction set, which thread takes which row.
#pragma once

#include "worker.h"

namespace fastsample {

// The workers that this processor can run, best first; null behind the last.
const Worker* const* workers();

// The one in use: the best, until a test chooses another.
const Worker* worker();
void use(const Worker* chosen);

// Returns the number of invalid rows; a token is -1 or in [0, V). Throws std::bad_alloc, and nothing else.
int64_t sample_rows(const Call& call, int threads, const Edits& edits = {});

}  // namespace fastsample
