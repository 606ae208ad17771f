/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <ATen/core/Tensor.h>

#include "arena/arena.h"

namespace rdmatrain {

/* Puts the arena, which is opened, before the allocator that torch has: blocks of 64 KiB and up are
 * the arena's while it has room, everything else is the other's. Throws when the arena cannot be
 * opened, or when torch's allocator cannot be stood in for. With the GIL. */
void install_allocator();

/* A tensor whose storage, however small, is in the arena, also after resize_. Throws when the arena
 * is not open or has no room. */
at::Tensor arena_empty(at::IntArrayRef size, at::ScalarType dtype);

} // namespace rdmatrain
