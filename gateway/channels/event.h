// Log entries: what happened to connections and devices, published under {prefix}/log/gw/ and not retained.
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/channels/peer.h"

// The numbers are flespi's.
enum event_code {
    EVENT_NONE = 0,
    EVENT_ACCEPTED = 100,
    EVENT_IDENTIFIED = 101,
    EVENT_CLOSED = 102,
    EVENT_CHANNEL_ERROR = 103, // bytes that made no sense, from an unknown device
    EVENT_CONNECTED = 300,
    EVENT_DISCONNECTED = 301,
    EVENT_DEVICE_ERROR = 304,   // the same from a device that has said who it is
    EVENT_VALUES_REMOVED = 305, // an impossible value was dropped
    EVENT_TAKEOVER = 399,       // not flespi's: another address says the ident of a device that is here
};

// log/gw/channels/{id}/connections/{conn_id}/…
// suppressed: entries like it that were left out before.
void event_accepted(const struct peer *peer, unsigned suppressed);
void event_identified(const struct peer *peer);
void event_closed(const struct peer *peer, enum close_code code);

// An entry that was published, so that it is known again when the broker gives it back.
struct said {
    int64_t timestamp; // its own: microseconds since 1970; 0: nothing was published
    uint64_t number;   // in the outbox; 0: that was full
};

// log/gw/devices/{id}/{connected,disconnected}. Other instances read them too, and drop a device that is here
// now. ident and device say who; peer is where. Nothing is published for a device without an identity.
struct said event_presence(const struct peer *peer, const char *ident, const struct device *device,
                           bool connected);

// log/gw/devices/{id}/takeover: peer says the ident of a device that is at the other address, and alive.
void event_takeover(const struct peer *peer, const char *ident, const struct device *device,
                    const char *other);

struct event_error {
    enum event_code code;
    const char *text;    // what is wrong
    const char *verdict; // in a word
    bool has_offset;     // in the stream
    uint64_t offset;
    const uint8_t *bytes; // what is wrong with it, or NULL
    size_t length;
    unsigned suppressed; // as above
};

// The timestamp of an entry (JSON) in microseconds since 1970; 0 when it has none.
int64_t event_timestamp(const json_t *entry);

// log/gw/channels/{id}/error
void event_error(const struct peer *peer, const struct event_error *error);
