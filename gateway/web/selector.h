// Which items a request of flespi's API is about: all; 1,2,3; name=Van*,connected=true; {expression}. And which of their
// members it wants.
#pragma once

#include <stdint.h>

#include "gateway/web/expression.h"

#define SELECTOR_IDS_MAX 1000

enum selector_kind { SELECT_ALL, SELECT_IDS, SELECT_EXPRESSION };

struct selector {
    enum selector_kind kind;
    int64_t *ids; // in the order in which they are asked for, each once
    size_t count;
    struct expression expression; // its text stays the caller's
};

// NULL, or why it cannot be understood, for the caller to free. selector_free() in any case.
char *selector_read(struct selector *selector, const char *text, size_t length);
void selector_free(struct selector *selector);

// Whether it is about the item with that id.
bool selector_takes(const struct selector *selector, int64_t id, expression_value *value, void *context);

// Whether a list of fields ("id,name,position.*"; NULL: all of them) has that name.
bool selector_wants(const char *fields, const char *name);
