/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_watch.h"

#include <c10/util/Exception.h>

#include "c10d_callbacks.h"

namespace rdmatrain {

void Watch::set_hook(Hook hook)
{
    std::lock_guard<std::mutex> lock(mutex_);

    TORCH_CHECK(hook_ == nullptr, "rdmatrain: the group has an on-completion hook already");
    hook_ = std::move(hook);
    on_ = true;
}

void Watch::begin()
{
    std::lock_guard<std::mutex> lock(mutex_);

    num_pending_++;
}

void Watch::forget_one()
{
    if (--num_pending_ == 0) idle_.notify_all();
}

void Watch::cancel()
{
    std::lock_guard<std::mutex> lock(mutex_);

    forget_one();
}

void Watch::end(const Info &info)
{
    std::lock_guard<std::mutex> lock(mutex_);

    if (hook_ == nullptr) return forget_one();
    ended_.push_back(info);
    if (ended_.size() == 1)
        CallbackPool::instance().run([self = shared_from_this()] { self->call_hook(); });
}

void Watch::call_hook()
{
    std::unique_lock<std::mutex> lock(mutex_);

    while (!ended_.empty()) {
        Info info = ended_.front();

        lock.unlock();
        try {
            hook_(info);
        } catch (const std::exception &error) {
            TORCH_WARN("rdmatrain: the on-completion hook failed: ", error.what());
        }
        lock.lock();
        ended_.pop_front();
        forget_one();
    }
}

void Watch::wait()
{
    std::unique_lock<std::mutex> lock(mutex_);

    idle_.wait(lock, [this] { return num_pending_ == 0; });
}

} // namespace rdmatrain
