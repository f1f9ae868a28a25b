// The pages for readers: README.md and the pages of the folders.
#pragma once

#include <stddef.h>

struct page {
    char *name; // its path from the root of the repository: "gateway/README.md"
    char *text;
};

// All pages, read once and kept.
const struct page *pages_all(size_t *count);

// NULL when there is none of that name.
const struct page *page_find(const char *name);

// The fenced block whose opening ends with "test=NAME", in whichever page it is; the test fails unless there
// is exactly one. For the caller to free.
char *page_block(const char *name);

// Calls each with the NAME of every fenced block that is marked so, and with the page it is in.
void pages_each_mark(void (*each)(const struct page *page, const char *name));
