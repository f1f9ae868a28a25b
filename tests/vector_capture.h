// Captures as vectors: each connection of the file is a case of its own.
#pragma once

#include "gateway/cli/capture_file.h"
#include "tests/vector.h"

// Fills a vector, of which path and codec are set, with what the connection of that number says. What is expected of
// it the file may say in lines behind its chunks. Otherwise all must be understood, and what comes of it as it was
// recorded must come whatever way it is cut. NULL, or why it cannot be one: a constant.
const char *vector_of_capture(struct vector *vector, const struct capture_file *file, size_t connection);
