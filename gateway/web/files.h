// The page's files, as they are inside the program.
#pragma once

#include <stddef.h>

struct file {
    const char *path, *type, *tag; // "/style.css", its media type, a tag that changes with its bytes
    const unsigned char *bytes;
    size_t length;
};

// Ends with an entry of NULLs.
extern const struct file files[];

// NULL when there is none at that path.
const struct file *file_find(const char *path);
