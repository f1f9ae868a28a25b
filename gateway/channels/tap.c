// The tap; see tap.h.
//
// A capture of a device is to have its first bytes too, and who it is becomes known only when these are read: what an
// unknown peer says and hears is held until then. Captures of the channel and the address have it at once.
#include "gateway/channels/tap.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/channels/captures.h"
#include "gateway/channels/session.h"

#define HELD_MAX       8192 // bytes of a peer that is not known yet, and how many of such chunks
#define HELD_CHUNKS    256
#define HELD_ALL_MAX   1048576 // bytes of all peers
#define CHUNK_OVERHEAD 64      // that a chunk counts beside its bytes

struct chunk {
    const char *direction; // "recv" or "send"
    uint64_t offset;       // of the first byte, among all in this direction
    int64_t time;          // microseconds since 1970
    const uint8_t *bytes;
    size_t length;
};

struct held {
    struct chunk chunk;
    struct held *next, *prev;
    uint8_t bytes[];
};

struct tap_held {
    struct held *list;
    size_t count, size;
};

// What is being read just now.
static struct {
    const struct peer *peer; // NULL: nothing, or all who may want it have it
    struct chunk chunk;
} current;
static size_t held_of_all; // bytes

// --- publishing ---

static json_t *entry_of(const struct peer *peer, const struct chunk *chunk, uint64_t wanted, size_t length) {
    char *hex = must_have(malloc(2 * length + 1));
    const char *ident = peer->ident != NULL ? peer->ident : peer->turned_away;
    json_t *entry =
        json_pack("{s:s, s:s, s:s, s:I, s:f, s:I, s:s, s:s}", "packet", hex_write(chunk->bytes, length, hex),
                  "source", peer->address, "transport", peer->transport->is_udp ? "udp" : "tcp", "offset",
                  (json_int_t)chunk->offset, "timestamp", (double)chunk->time / 1e6, "channel_id",
                  (json_int_t)peer->channel->id, "protocol_name", peer->channel->codec->name, "instance",
                  bus_client_id(peer->parts->bus));
    json_t *names = captures_names(peer->parts->captures, wanted);
    if (ident != NULL)
        json_object_set_new(entry, "ident", json_string(ident));
    if (peer->device != NULL && peer->device->known)
        json_object_set_new(entry, "device_id", json_integer((json_int_t)peer->device->id));
    if (names != NULL)
        json_object_set_new(entry, "by", names);
    free(hex);
    return entry;
}

static void publish(const struct peer *peer, const struct chunk *chunk, uint64_t wanted) {
    if (wanted == 0)
        return;
    size_t length = captures_allow(peer->parts->captures, peer, wanted, chunk->length);
    if (length == 0)
        return;
    json_t *entry = entry_of(peer, chunk, wanted, length);
    bus_publish(peer->parts->bus, entry, MQTT_NOT_RETAINED,
                TOPIC_LOG TOPIC_CHANNELS "%lld" TOPIC_CONNECTIONS "%llu/%s", (long long)peer->channel->id,
                (unsigned long long)peer->serial, chunk->direction);
    json_decref(entry);
}

// --- holding ---

static void hold(struct peer *peer, const struct chunk *chunk) {
    size_t size = chunk->length + CHUNK_OVERHEAD;
    if (peer->held == NULL)
        peer->held = must_have(calloc(1, sizeof *peer->held));
    struct tap_held *all = peer->held;
    if (all->count == HELD_CHUNKS || all->size + chunk->length > HELD_MAX ||
        held_of_all + size > HELD_ALL_MAX)
        return; // the offset of what comes next shows that something is missing
    struct held *held = must_have(malloc(sizeof *held + chunk->length));
    held->chunk = *chunk;
    held->chunk.bytes = held->bytes;
    memcpy(held->bytes, chunk->bytes, chunk->length);
    DL_APPEND(all->list, held);
    all->count++;
    all->size += chunk->length;
    held_of_all += size;
}

static void let_go(struct peer *peer, uint64_t wanted) {
    struct held *held, *next;
    if (peer->held == NULL)
        return;
    DL_FOREACH_SAFE(peer->held->list, held, next) {
        publish(peer, &held->chunk, wanted);
        held_of_all -= held->chunk.length + CHUNK_OVERHEAD;
        free(held);
    }
    free(peer->held);
    peer->held = NULL;
}

void tap_forget(struct peer *peer) {
    let_go(peer, 0);
    if (current.peer == peer)
        current.peer = NULL;
}

// --- taking ---

static uint64_t by_device(struct peer *peer) {
    session_find_captured(peer);
    return captures_by_device(peer->parts->captures, peer);
}

static uint64_t wanted_of(struct peer *peer) {
    return by_device(peer) | captures_by_place(peer->parts->captures, peer);
}

// Whether it may still say that it is a device that is asked for.
static bool is_open(const struct peer *peer) {
    return peer->places == NULL && peer->turned_away == NULL && captures_follow(peer->parts->captures);
}

// What is held, and then what is being read: those who ask for the device have it now, or have to wait on.
static void take_current(struct peer *peer) {
    bool open = is_open(peer);
    if (!open)
        let_go(peer, by_device(peer));
    if (current.peer == peer && open)
        hold(peer, &current.chunk);
    else if (current.peer == peer)
        publish(peer, &current.chunk, by_device(peer));
    current.peer = current.peer == peer ? NULL : current.peer;
}

void tap_received(struct peer *peer, const uint8_t *bytes, size_t length) {
    if (length == 0 || !captures_run(peer->parts->captures))
        return;
    current.peer = is_open(peer) ? peer : NULL;
    current.chunk = (struct chunk){.direction = "recv",
                                   .offset = peer->received - length,
                                   .time = clock_now(),
                                   .bytes = bytes,
                                   .length = length};
    publish(peer, &current.chunk, wanted_of(peer));
}

void tap_taken(struct peer *peer) {
    if (current.peer == peer || peer->held != NULL)
        take_current(peer);
}

void tap_sent(struct peer *peer, const uint8_t *bytes, size_t length) {
    if (!captures_run(peer->parts->captures))
        return;
    const struct chunk chunk = {.direction = "send",
                                .offset = peer->sent - length,
                                .time = clock_now(),
                                .bytes = bytes,
                                .length = length};
    take_current(peer); // what it answers comes before it
    publish(peer, &chunk, wanted_of(peer));
    if (is_open(peer))
        hold(peer, &chunk);
}
