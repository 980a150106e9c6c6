// A pool of threads that waits for the next call: starting threads would cost more than a row.
#pragma once

namespace fastsample {

// Runs work(context, part) for every part in [0, parts), on up to `threads` threads, this one included; returns when
// all are done. A second caller meanwhile, or a call from inside a part, runs its parts alone.
void run_parts(int threads, int parts, void (*work)(void* context, int part), void* context);

}  // namespace fastsample
