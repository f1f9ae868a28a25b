// telemetry/position: the position.* of a message as one JSON object.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "schema/message.h"

#define POSITION_MAX 1024 // bytes of its text

struct position {
    char text[POSITION_MAX]; // JSON of length bytes
    size_t length;           // 0: the message says nothing of a position
    bool has_place;          // latitude and longitude
};

// Collects it from members[0 .. count), as message_write_members() gave them. What does not fit is left out.
void position_collect(struct position *position, const struct message_member *members, size_t count);

// Puts it into the position known until then (JSON of length bytes, or NULL): a report without coordinates
// updates what it can of the last position ("valid":false), but does not remove it.
void position_merge(struct position *position, const char *known, size_t length);
