// A broker of a test's own in place of the link: an outbox in a folder of its own, and a carrier that notes what
// it is handed and answers when the test says so.
#pragma once

#include <uv.h>

#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "tests/temporary.h"

#define CARRIED_MAX   256       // messages of one test
#define CARRIER_BYTES (1 << 20) // that its outbox keeps on disk

struct carried {
    char topic[256];
    char payload[2048];
    int qos;
    enum mqtt_retain retain;
    int64_t measured;
};

struct carrier {
    uv_loop_t loop;
    char directory[TEMPORARY_MAX];
    struct store *store;
    struct outbox *outbox;
    struct mqtt_carrier carrier;
    bool up;
    size_t count;
    struct carried carried[CARRIED_MAX];
};

// Opens everything, with the broker away; closes everything, and fails when a handle is left on the loop.
void carrier_open(struct carrier *carrier);                        // with the prefix trackbus
void carrier_open_as(struct carrier *carrier, const char *prefix); // which stays the caller's
void carrier_close(struct carrier *carrier);

void carrier_go_up(struct carrier *carrier);
void carrier_go_down(struct carrier *carrier);

// Puts messages, with the broker away, until only so many bytes are left before the outbox is full; 0: until it is.
void carrier_fill(struct carrier *carrier, size_t left);

// The broker takes all that it was handed and has not answered yet.
void carrier_answer_all(struct carrier *carrier);

// The message handed over last; fails when there is none.
const struct carried *carrier_last(const struct carrier *carrier);

// Runs the loop until *flag is set; fails after 15 s.
void carrier_run_until(struct carrier *carrier, const bool *flag);
