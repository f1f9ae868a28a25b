// A report goes out: as JSON to its topics, by way of the outbox, and to the observer.
#pragma once

#include <stdint.h>

#include "gateway/channels/parts.h"
#include "schema/message.h"

struct session;

// Who sent it. The pointers are borrowed.
struct report_origin {
    const struct session *session;
    const char *ident;
    int64_t channel_id;
    int64_t received; // microseconds since 1970
    bool background;  // those of other devices go first where not all can go at once
};

// Its messages in the outbox, by their numbers there.
struct report_numbers {
    uint64_t first, last;
};

// The message has all that message_stamp() gives it.
struct report_numbers report_publish(const struct channel_parts *parts, const struct report_origin *origin,
                                     const struct message *message);
