// What the gateway adds to every message of a codec.
#pragma once

#include <stdint.h>

#include "codecs/codec.h"

struct device;

// Where and when a message was received. Texts are borrowed; channel_id 0 and peer NULL: no channel
// (offline).
struct message_origin {
    const struct codec *codec;
    int64_t received; // microseconds since 1970
    int64_t channel_id;
    const char *peer;            // "ip:port"
    const struct device *device; // who sent it; NULL, or one without an identity: no device.* fields
};

// Adds server.timestamp, protocol.id, channel.id, peer and device.*. timestamp is server.timestamp where the
// report had none, or one that cannot be (see value_time_fault()), which is then noted in removed.
void message_stamp(struct message *message, const struct message_origin *origin);
