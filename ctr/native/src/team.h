// The threads of a process that calls of the library share.
#pragma once

#include <functional>

namespace ctr {

// work(0) ... work(tasks - 1), at once as far as there are threads; they may make any other call of the library but this one.
void call(const std::function<void(int)>& work, int tasks, int threads);

}  // namespace ctr
