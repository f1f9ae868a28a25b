// What the files of the world share, and tests do not need.
#pragma once

#include <poll.h>
#include <pthread.h>
#include <stdint.h>

#include "tests/faults/world.h"

#define SEQUENCE_MAX 60000 // reports of one device; Magicyo's frame id has 16 bits
#define DEVICES_MAX  128
#define POLLS_MAX    512
#define PAIRS_MAX    8
#define MEMORY_MAX   4000

enum device_kind { MICTRACK, MAGICYO, UDP, MAGICYO_UDP };
// REFUSED: by an acknowledgement that the proxy changed. UNWELCOME: the broker must not take it; ASIDE: it was
// found in the store.
enum report_flag { SENT = 1, ACKNOWLEDGED = 2, RECEIVED = 4, REFUSED = 8, UNWELCOME = 16, ASIDE = 32 };

struct device {
    enum device_kind kind;
    bool forbidden;
    int index, socket; // socket -1: not connected
    int64_t when;      // of the last attempt or sending, milliseconds
    int last, next;    // last report that it was told to send, next one to go out
    int answered;      // all up to this one are acknowledged
    char out[2048];
    size_t out_length, out_done;
    uint8_t in[512];
    size_t in_length;
    int highest;     // that was published
    int last_passed; // on the gateway's present connection to the broker
    uint8_t flags[SEQUENCE_MAX + 1];
};

// Bytes on their way in one direction.
struct pipe {
    int from, to;
    uint8_t *bytes;
    size_t length, capacity;
    size_t ready; // of them, whole packets that may be written
};

struct pair {
    struct pipe up, down; // to the broker, to the gateway
    bool open;
    int64_t held_until;
    int turn; // of PUBACKs: every other one becomes a refusal
    struct {
        int device, sequence;
    } by_id[65536]; // PUBLISHes by packet id
};

struct world {
    struct rig *rig;
    struct world_setup setup;
    struct world_faults faults;
    pthread_t thread;
    pthread_mutex_t lock;
    atomic_bool sending, ending;
    bool killed; // the gateway, at some time
    int listener, proxy_port, tcp_port, udp_port, magicyo_port, magicyo_udp_port;
    int64_t started, sent_until; // milliseconds
    int turn;
    struct device *devices[DEVICES_MAX];
    int device_count;
    struct pair *pairs[PAIRS_MAX];
    struct world_counts counts;
    struct pollfd polls[POLLS_MAX];
    size_t poll_count;
    size_t memory[MEMORY_MAX]; // of the gateway, KiB, one for each second
    size_t memory_count;
};

void world_poll(struct world *world, int descriptor, short events);
bool world_is_ready(const struct world *world, int descriptor, short events);

void device_turn(struct world *world, struct device *device);
void device_poll(struct world *world, const struct device *device);
bool device_is_read(const struct device *device); // nothing waits here to be sent
void device_close(struct device *device);

void proxy_open(struct world *world);
void proxy_poll(struct world *world);
void proxy_turn(struct world *world);
void proxy_close(struct world *world);
