// What stands retained for each device: who it is, whether it is connected, and its last values (telemetry).
//
// The last values are kept in memory, so that only what changed is published, and everything can be published
// again when the broker has lost it. Nothing of it goes to disk: while the broker is away or behind, what has
// changed is marked, and only the last value is published when it keeps up again.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "codecs/codec.h"

struct gateway;
struct message_member;
struct mqtt_received;
struct peer;
struct session;

// What of a device is to be published.
enum device_state_part {
    STATE_IDENTITY = 1,
    STATE_CONNECTED = 2,
    STATE_VALUES = 4,    // those that are marked
    STATE_DISCOVERY = 8, // for Home Assistant
    STATE_ALL = 15,
};

struct device_state {
    int64_t id;
    char ident[CODEC_IDENT_MAX + 1];
    char *name;
    int64_t type_id;
    const struct codec *codec; // NULL until it was heard
    bool listed;               // in the registry
    bool connected;            // here, or when another gateway has it, there
    int64_t since;             // no report from before it counts: microseconds since 1970
    bool heard;                // the broker has said what stands retained of "connected"
    bool elsewhere;            // another gateway had it last, and announces it
    uint8_t due;               // of enum device_state_part
    uint8_t *values;           // entries, see device_state.c; NULL without any
    uint32_t values_length;
    uint32_t reported, announced;     // home_assistant.c's entities: with a value, and announced
    struct device_state *prev, *next; // in the order in which they were heard, the last at the end
    struct device_state *prev_due, *next_due;
    UT_hash_handle hh; // by id
};

struct device_state_table {
    struct device_state *by_id;
    struct device_state *heard;
    struct device_state *due; // those with something to publish, the longest first
    size_t unlisted;          // states of devices outside the registry
};

// Makes the states of the registry's devices.
void device_states_start(struct gateway *gateway);
void device_states_free(struct gateway *gateway);

// The device of the session is here now; peer is where.
void device_state_connected(struct gateway *gateway, const struct session *session, const struct peer *peer);
// It is gone. elsewhere: to another gateway, which says so itself.
void device_state_disconnected(struct gateway *gateway, const struct session *session, bool elsewhere);

// Takes the values of a message: members[0 .. count), as message_write_members() gave them. timestamp and now
// are microseconds since 1970. A value that is older than the one known is left out.
void device_state_report(struct gateway *gateway, const struct session *session,
                         const struct message_member *members, size_t count, int64_t timestamp, int64_t now);

// Publishes what is due as far as the broker keeps up. True when nothing is left.
bool device_states_publish(struct gateway *gateway);

// The broker has lost what it kept: all is due again.
void device_states_restore(struct gateway *gateway);

// All that the broker retained at the beginning has been heard. What it had nothing of is due.
void device_states_settled(struct gateway *gateway);

// A retained entry of state/gw/devices/, topic is what follows that: ours from an earlier run, or another
// gateway's.
void device_states_heard(struct gateway *gateway, const char *topic, const struct mqtt_received *received);

// The registry has changed: names, ids, devices that are new or gone. sessions_reload() comes after it.
void device_states_reload(struct gateway *gateway);

// Takes away what stands retained under an id, but for telemetry: for Home Assistant only where a device has
// it. For state.c.
void device_state_remove(struct gateway *gateway, int64_t id);

// All are due for Home Assistant again.
void device_states_announce(struct gateway *gateway);

// The last value of a field without index, as JSON text of *length bytes; or NULL.
const char *device_state_value(const struct device_state *state, enum field field, size_t *length);
