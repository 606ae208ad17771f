/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <pybind11/pybind11.h>

namespace rdmatrain {

/* Sets what makes a backend of a store, a rank, a number of ranks and options: agreeing on a group is
 * Python's. With the GIL. */
void set_factory(pybind11::object factory);

} // namespace rdmatrain
