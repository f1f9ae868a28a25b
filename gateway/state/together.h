// Fields that tell one thing together, such as where a place is from and how good it is: a report that tells it anew replaces
// all of them, also those that it does not have. The accuracy of one place is not that of the next.
#pragma once

#include <stdbool.h>

#include "gateway/channels/observer.h"
#include "schema/message.h"

// What a report tells and has. To be filled by together_read().
struct together {
    bool any;               // whether it replaces anything
    bool said[FIELD_COUNT]; // which fields it has
    bool tells[3];          // which things, in the order of together.c
};

void together_read(struct together *together, const struct channel_report *report);

// Whether the report replaces what the field said until now, without saying it itself.
bool together_ends(const struct together *together, enum field field);

// The fields of a place that not every report with a place has, and that may stand at the broker from an earlier run.
#define TOGETHER_FOUND_COUNT 2
extern const enum field together_found[TOGETHER_FOUND_COUNT];
