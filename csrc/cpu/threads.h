// A pool of threads that waits for the next call: starting threads would cost more than a row.
#pragma once

#include <cstdint>

namespace fastsample {

// Runs work(context, part) for every part in [0, parts), on up to `threads` threads, this one included; returns when
// all are done. A second caller meanwhile, or a call from inside a part, runs its parts alone; so does a caller for
// whom no thread can be started. `work` must not throw.
void run_parts(int threads, int64_t parts, void (*work)(void* context, int64_t part), void* context);

}  // namespace fastsample
