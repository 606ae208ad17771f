/* SPDX-License-Identifier: Apache-2.0 */
#include "base/warn.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "rdmatrain: "

void rdt_warn(const char *fmt, ...)
{
    char text[1024] = PREFIX;
    size_t len = sizeof(PREFIX) - 1;
    ssize_t n;
    va_list args;

    va_start(args, fmt);
    vsnprintf(text + len, sizeof(text) - len - 1, fmt, args);
    va_end(args);
    len = strlen(text);
    text[len++] = '\n';
    n = write(STDERR_FILENO, text, len);
    (void)n; /* there is nobody to tell */
}
