// Sessions: from the ident of a device to where it can be reached.
#pragma once

#include <stdint.h>
#include <uthash.h>

#include "codecs/codec.h"
#include "gateway/config/registry.h"

struct gateway;
struct peer;

struct session {
    char ident[CODEC_IDENT_MAX + 1];
    struct device device;
    struct peer *tcp; // its connection, or NULL
    struct peer *udp; // where it was last heard from over UDP, or NULL
    int64_t since;    // it has been here: microseconds since 1970
    bool elsewhere;   // it has gone to another gateway
    bool settled;     // what other gateways have said of its commands until it came here has been heard
    UT_hash_handle by_ident, by_id;
};

struct session_table {
    struct session *by_ident;
    struct session *by_id;
};

// Makes peer the place of the device of that ident. A connection that it had is closed (code 12); the peer
// leaves the session that it was in. peer->session is set.
void session_attach(struct gateway *gateway, struct peer *peer, const char *ident,
                    const struct device *device);

// Takes peer out of its session, if it is in one; a session without peers ends.
void session_detach(struct gateway *gateway, struct peer *peer);

// The broker tells of a log entry (JSON) that the device is connected. Our own: what others have said of its
// commands before has been heard. Another instance's: unless the device connected here later, its connections
// here are closed (code 12). What says of nobody that he has it is ignored.
void session_heard(struct gateway *gateway, int64_t device_id, const char *entry, size_t length);

// Whether commands may be sent: not while a gateway that held the device before may still have to say what it
// has sent.
bool session_is_settled(const struct gateway *gateway, const struct session *session);

// Gives all devices that are here what the registry says of them now; closes those that it no longer allows
// (code 13).
void sessions_reload(struct gateway *gateway);

// NULL when the device is not here. Only devices with an identity are found by an id.
struct session *session_by_ident(const struct session_table *table, const char *ident);
struct session *session_by_device_id(const struct session_table *table, int64_t id);

// Where to send to the device now: its connection, or its UDP address when it was heard from within reachable
// milliseconds; NULL when there is none.
struct peer *session_reachable(const struct session *session, uint64_t reachable);
