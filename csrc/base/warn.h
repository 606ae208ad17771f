/* SPDX-License-Identifier: Apache-2.0 */
/* For what is slower than it should be and ends nothing: one line on standard error, where the program's other
 * libraries write theirs. What ends something is an error, and returned. */
#ifndef RDT_BASE_WARN_H
#define RDT_BASE_WARN_H

/* "rdmatrain: ", the text and a line feed, in one write. Seldom called: once for each cause. */
void rdt_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
