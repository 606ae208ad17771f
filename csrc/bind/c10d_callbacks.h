/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace rdmatrain {

/* Where futures complete and hooks run: these are the user's, and may wait for other collectives or
 * destroy the group, which neither the progress thread nor a thread that drives may do. A callback
 * that blocks keeps its thread, and the next one gets another. Any thread. */
class CallbackPool
{
  public:
    /* Never destroyed: its threads may outlive every other static. */
    static CallbackPool &instance();

    void run(std::function<void()> task);
    /* Waits until all callbacks have returned, but not for the one that calls: Python must not end
     * while one of them wants the GIL. False when time ran out. */
    bool drain(std::chrono::seconds limit);

  private:
    void work();

    std::mutex mutex_;
    std::condition_variable ready_, drained_;
    std::deque<std::function<void()>> tasks_;
    size_t num_idle_ = 0, num_running_ = 0;
};

} // namespace rdmatrain
