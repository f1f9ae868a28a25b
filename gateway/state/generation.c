// The number that tells how old a broker's state is; see generation.h.
#include "gateway/state/generation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "schema/decimal.h"

#define INTERVAL 1000        // milliseconds that a generation lasts at least
#define MOST     4000000000U // that is believed: at one a second there is room behind it

struct generation {
    uv_loop_t *loop;
    const struct bus *bus;
    struct publisher *publisher;
    uint32_t now;     // of what is published now
    uint32_t first;   // the one with which this connection began
    uint32_t heard;   // that the broker has said in this connection; 0: none
    bool settled;     // in this connection
    bool written;     // something belongs to now
    uint32_t closed;  // to be said once the broker has all up to through; 0: none
    uint64_t through; // number in the outbox
    uint32_t said;    // last; 0: none
    uint32_t vouched; // that the broker has; 0: none
    bool again;       // that is to be said again
    uint64_t begun;   // now, by uv_now()
};

uint32_t generation_write(struct generation *generation) {
    generation->written = true;
    publisher_wake(generation->publisher);
    return generation->now;
}

static void begin(struct generation *generation) {
    generation->now++;
    generation->written = false;
    generation->begun = uv_now(generation->loop);
}

static void close_one(struct generation *generation) {
    generation->closed = generation->now;
    generation->through = bus_last_number(generation->bus);
    begin(generation);
}

static void say(struct generation *generation, uint32_t number) {
    json_t *json = json_integer((json_int_t)number);
    if (bus_publish(generation->bus, json, MQTT_RETAINED_SIGNED,
                    TOPIC_STATE TOPIC_INSTANCES "%s" TOPIC_GENERATION, bus_client_id(generation->bus)) != 0) {
        generation->said = number;
        generation->closed = 0;
        generation->again = false;
        generation->through = bus_last_number(generation->bus); // one write under way at a time
    }
    json_decref(json);
}

// What through is of, while none is closed, is the number that was said.
static void note_vouched(struct generation *generation) {
    if (generation->settled && generation->closed == 0 && generation->said >= generation->first &&
        bus_has_taken(generation->bus, generation->through))
        generation->vouched = generation->said;
}

// Not before it is known what the broker had: its answer would be our own number.
static bool publish(void *context) {
    struct generation *generation = context;
    if (!generation->settled)
        return true; // looked at again when it is
    bool over = uv_now(generation->loop) - generation->begun >= INTERVAL;
    bool taken = bus_has_taken(generation->bus, generation->through);
    note_vouched(generation);
    if (generation->closed == 0 && taken && generation->written && over)
        close_one(generation);
    else if (generation->closed != 0 && taken && bus_keeps_up(generation->bus))
        say(generation, generation->closed);
    else if (generation->again && generation->closed == 0 && taken && bus_keeps_up(generation->bus))
        say(generation, generation->said);
    bool vouched = generation->said < generation->first || generation->vouched == generation->said;
    return !generation->written && generation->closed == 0 && !generation->again && vouched;
}

// --- what the broker has ---

void generation_connected(struct generation *generation) {
    begin(generation);
    generation->first = generation->now;
    generation->heard = 0;
    generation->closed = 0; // it may not be true of this broker
    generation->again = false;
    generation->vouched = 0;
    generation->settled = false;
}

void generation_link_down(struct generation *generation) {
    note_vouched(generation); // its answer may have come just now
    generation->settled = false;
    publisher_wake(generation->publisher); // for those who go by what is vouched for
}

static uint32_t read_number(const char *payload, size_t length) {
    char text[DECIMAL_TEXT_MAX];
    if (length >= sizeof text)
        return 0;
    snprintf(text, sizeof text, "%.*s", (int)length, length > 0 ? payload : "");
    long long number = strtoll(text, NULL, 10);
    return number > 0 && number < MOST ? (uint32_t)number : 0;
}

void generation_received(struct generation *generation, const char *topic,
                         const struct mqtt_received *received) {
    const char *rest = bus_after_own(generation->bus, topic);
    if (rest != NULL && strcmp(rest, TOPIC_GENERATION) == 0 && received->retain && !generation->settled)
        generation->heard = read_number(received->payload, received->length);
}

// A number that is higher than ours (another run's, from a clock that was ahead) would vouch for what we have
// yet to write: then we count on from there, and what has the lower numbers is published again.
struct generation_span generation_settled(struct generation *generation) {
    struct generation_span lost = {generation->heard, generation->first};
    generation->settled = true;
    generation->vouched = generation->heard;
    publisher_wake(generation->publisher);
    if (generation->heard < generation->first)
        return lost;
    generation->now = generation->heard;
    begin(generation);
    return (struct generation_span){0, generation->now};
}

uint32_t generation_vouched(const struct generation *generation) {
    return generation->vouched;
}

bool generation_is_said(const struct generation *generation, const char *payload, size_t length) {
    return generation->said == 0 || generation->said == read_number(payload, length);
}

void generation_say_again(struct generation *generation) {
    generation->again = generation->said != 0;
    publisher_wake(generation->publisher);
}

// A new run begins above all earlier ones, which lasted at least a second for each number.
struct generation *generation_new(uv_loop_t *loop, const struct bus *bus, struct publisher *publisher) {
    struct generation *generation = must_have(calloc(1, sizeof *generation));
    *generation = (struct generation){.loop = loop, .bus = bus, .publisher = publisher};
    generation->now = (uint32_t)(clock_now() / 1000000 % MOST);
    publisher_add(publisher, publish, generation);
    return generation;
}

void generation_free(struct generation *generation) {
    free(generation);
}
