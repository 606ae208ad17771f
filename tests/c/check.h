/* SPDX-License-Identifier: Apache-2.0 */
/* A failed check says where, what was expected and what came, and ends the program with 1. */
#ifndef TESTS_C_CHECK_H
#define TESTS_C_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition, ...)                                                         \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                             \
            fputc('\n', stderr);                                                      \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

#define CHECK_EQ(got, want)                                                   \
    do {                                                                      \
        long long got_ = (long long)(got), want_ = (long long)(want);         \
        CHECK(got_ == want_, "%s is %lld, expected %lld", #got, got_, want_); \
    } while (0)

#endif
