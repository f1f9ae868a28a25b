// A broker of a test's own; see carrier.h.
#include "tests/carrier.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEADLINE 15 // seconds

static bool is_up(void *context) {
    const struct carrier *carrier = context;
    return carrier->up;
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    struct carrier *carrier = context;
    if (!carrier->up)
        return MQTT_NOT_NOW;
    cr_assert(carrier->count < CARRIED_MAX);
    struct carried *carried = &carrier->carried[carrier->count++];
    cr_assert(strlen(publish->topic) < sizeof carried->topic && publish->length < sizeof carried->payload);
    strcpy(carried->topic, publish->topic);
    snprintf(carried->payload, sizeof carried->payload, "%.*s", (int)publish->length,
             publish->length > 0 ? (const char *)publish->payload : "");
    carried->qos = publish->qos;
    carried->retain = publish->retain;
    carried->measured = publish->measured;
    *mid = (int)carrier->count;
    return MQTT_SENT;
}

static void reset(void *context, const char *why) {
}

static void ignore_aside(void *context) {
}

static void note_intake(void *context, enum outbox_intake intake) {
}

void carrier_open(struct carrier *carrier) {
    carrier_open_as(carrier, "trackbus");
}

void carrier_open_as(struct carrier *carrier, const char *prefix) {
    char path[96], *reason;
    *carrier = (struct carrier){0};
    make_temporary(carrier->directory, "carrier");
    snprintf(path, sizeof path, "%s/store.db", carrier->directory);
    uv_loop_init(&carrier->loop);
    carrier->store = store_open(&carrier->loop, path, &reason);
    cr_assert(carrier->store != NULL, "%s", reason);
    carrier->carrier =
        (struct mqtt_carrier){.context = carrier, .is_up = is_up, .publish = publish, .reset = reset};
    carrier->outbox = outbox_new(&carrier->loop, carrier->store, prefix, 1000, CARRIER_BYTES,
                                 &(struct outbox_handlers){NULL, note_intake, ignore_aside});
    outbox_set_carrier(carrier->outbox, &carrier->carrier);
}

void carrier_close(struct carrier *carrier) {
    char command[96];
    outbox_stop(carrier->outbox);
    store_stop(carrier->store);
    uv_run(&carrier->loop, UV_RUN_DEFAULT);
    outbox_free(carrier->outbox);
    store_close(carrier->store);
    cr_assert(uv_loop_close(&carrier->loop) == 0, "a handle is left on the loop");
    snprintf(command, sizeof command, "rm -rf %s", carrier->directory);
    cr_assert(system(command) == 0);
}

void carrier_go_up(struct carrier *carrier) {
    carrier->up = true;
    outbox_link_up(carrier->outbox);
}

void carrier_go_down(struct carrier *carrier) {
    carrier->up = false;
    outbox_link_down(carrier->outbox, MQTT_ENDED_BY_US);
}

// More than memory holds go to disk, where their bytes count: 64 for each besides its topic and payload.
void carrier_fill(struct carrier *carrier, size_t left) {
    static const char payload[CARRIER_BYTES];
    size_t used = 0;
    for (; used <= 10000 * 68; used += 68)
        outbox_put(carrier->outbox, &(struct mqtt_publish){.topic = "fill", .qos = 1});
    size_t length = CARRIER_BYTES - used - 68 - left + (left == 0 ? 68 : 0);
    outbox_put(carrier->outbox,
               &(struct mqtt_publish){.topic = "fill", .payload = payload, .length = length, .qos = 1});
    cr_assert(outbox_is_full(carrier->outbox) == (left == 0));
}

void carrier_answer_all(struct carrier *carrier) {
    for (size_t mid = 1; mid <= carrier->count; mid++)
        outbox_published(carrier->outbox, (int)mid, MQTT_TAKEN, "");
    outbox_link_ready(carrier->outbox);
}

const struct carried *carrier_last(const struct carrier *carrier) {
    cr_assert(carrier->count > 0, "nothing was handed over");
    return &carrier->carried[carrier->count - 1];
}

void carrier_run_until(struct carrier *carrier, const bool *flag) {
    time_t end = time(NULL) + DEADLINE;
    while (!*flag) {
        cr_assert(time(NULL) < end, "what was waited for did not come");
        uv_run(&carrier->loop, UV_RUN_ONCE);
    }
}
