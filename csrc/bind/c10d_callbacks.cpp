/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_callbacks.h"

#include <pthread.h>

#include <thread>

#include <c10/util/Exception.h>

namespace rdmatrain {

static thread_local bool in_callback = false;

static auto *pool = new CallbackPool;

/* A fork has none of the pool's threads, but would count on them; and its mutex may be locked. */
[[maybe_unused]] static const int watches_forks =
    pthread_atfork(nullptr, nullptr, [] { pool = new CallbackPool; });

CallbackPool &CallbackPool::instance()
{
    return *pool;
}

void CallbackPool::run(std::function<void()> task)
{
    std::lock_guard<std::mutex> lock(mutex_);

    tasks_.push_back(std::move(task));
    if (tasks_.size() > num_idle_) std::thread([this] { work(); }).detach();
    ready_.notify_one();
}

bool CallbackPool::drain(std::chrono::seconds limit)
{
    std::unique_lock<std::mutex> lock(mutex_);

    return in_callback ||
           drained_.wait_for(lock, limit, [this] { return tasks_.empty() && num_running_ == 0; });
}

static void run_one(const std::function<void()> &task) noexcept
{
    try {
        task();
    } catch (const std::exception &error) {
        TORCH_WARN("rdmatrain: a callback of a collective failed: ", error.what());
    } catch (...) {
        TORCH_WARN("rdmatrain: a callback of a collective failed");
    }
}

void CallbackPool::work()
{
    std::unique_lock<std::mutex> lock(mutex_);

    in_callback = true;
    for (;;) {
        num_idle_++;
        ready_.wait(lock, [this] { return !tasks_.empty(); });
        num_idle_--;
        num_running_++;
        auto task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.unlock();
        run_one(task);
        task = nullptr; /* what it holds is let go without the lock */
        lock.lock();
        num_running_--;
        drained_.notify_all();
    }
}

} // namespace rdmatrain
