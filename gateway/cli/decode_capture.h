// A capture file decoded: each of its connections by itself, each chunk at its time.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"

// codec is what all connections are taken to speak; NULL: what the file says. now (microseconds since 1970) stands for
// the times in the file; 0: those hold. Messages go to standard output, what became of each chunk to standard error.
// Returns the exit code.
int decode_capture(const char *text, size_t length, const struct codec *codec, bool explain, int64_t now);
