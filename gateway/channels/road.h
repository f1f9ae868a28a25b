// The road to a device that can be reached now: what a command needs to be sent, and what identifies its
// answer.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct channel_parts;
struct config_channel;
struct peer;
struct session;

struct road {
    const struct config_channel *channel;
    const char *ident;
    int64_t device_id;  // -1: a device without an identity
    const char *source; // "ip:port"
    bool is_udp;
    uint64_t serial;     // no other connection has it, and the device none that it left and came back to
    void *codec_session; // what the codec remembers of the device
    void *context;       // for send
    void (*send)(void *context, const uint8_t *bytes, size_t length);
};

// The road by which the device of that session was heard at peer. It is valid as long as the device is there.
struct road road_of(struct peer *peer, const struct session *session);

// Finds the road to the device of that id (-1: without an identity) and ident: its connection, or its UDP
// address when it was heard from within commands.udp_reachable. False when there is none, or another gateway
// may still have to say what it has sent. *road is valid until the loop goes on.
bool road_find(const struct channel_parts *parts, int64_t device_id, const char *ident, struct road *road);
