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

// The place of that id among those of the selector; count when it is not there.
size_t selector_place(const struct selector *selector, int64_t id);

#define FIELDS_LENGTH_MAX 1024 // bytes
#define FIELDS_MAX        100  // names between the commas

// A list of fields: id,name,position.*. It is read once for each name that is asked about, however many items have it.
struct fields {
    const char *text; // the caller's; NULL, "" and "all" have every name
    json_t *decided;  // by name
};

// NULL, or why the list is refused, for the caller to free.
char *fields_fault(const char *text);
// Whether the list has that name.
bool fields_want(struct fields *fields, const char *name);
void fields_free(struct fields *fields);
