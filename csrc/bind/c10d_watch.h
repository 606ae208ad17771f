/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include <torch/csrc/distributed/c10d/Work.hpp>

namespace rdmatrain {

/* What a group wants to know of its works besides how they end. Costs a load until it is asked for.
 * Any thread. */
class Watch : public std::enable_shared_from_this<Watch>
{
  public:
    using Info = std::shared_ptr<c10d::WorkInfo>;
    using Hook = std::function<void(Info)>;

    bool is_on() const { return on_.load(std::memory_order_relaxed); }
    /* Works that begin from here on know how long they took. */
    void turn_on() { on_ = true; }
    /* The hook is called for each work that begins from here on: one call at a time, in the order in
     * which they end. Throws if there is one. */
    void set_hook(Hook hook);

    void begin();
    void end(const Info &info);
    /* A work that began was not posted. */
    void cancel();
    /* Waits until every work that began has ended, and the hook has returned from it. */
    void wait();

  private:
    void call_hook();
    void forget_one(); /* with mutex_ */

    std::atomic<bool> on_{false};
    std::mutex mutex_;
    std::condition_variable idle_;
    Hook hook_;
    std::deque<Info> ended_; /* the hook has them to come, and one thread is calling it */
    size_t num_pending_ = 0;
};

} // namespace rdmatrain
