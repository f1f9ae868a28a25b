// Removing devices: how much is asked of a broker at once when many go, and how much of what it tells is cleared while
// others have messages to send.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/state/clearing.h"
#include "tests/carrier.h"

#define MANY     2000 // devices
#define SOME     60   // the same
#define AT_ONCE  20   // of these
#define FIELDS   200  // of each
#define WAITING  6000 // messages, beyond which the broker does not keep up
#define PATIENCE 15000000

static struct carrier carrier;
static struct bus *bus;
static struct publisher *publisher;
static struct generation *generation;
static struct clearing *clearing;
static size_t asked;                     // devices, since the last look
static size_t most;                      // of these at once
static bool of_all;                      // a question was for all devices
static int published;                    // the last mid
static char mark[16];                    // the last one
static size_t forgotten, most_forgotten; // in one turn of the loop, and the most

static bool ask(void *context, const char *filter) {
    static uint64_t when;
    static size_t count;
    count = when == uv_now(&carrier.loop) ? count + 1 : 1;
    when = uv_now(&carrier.loop);
    most = count > most ? count : most;
    asked++;
    of_all = of_all || strstr(filter, "/devices/+/") != NULL;
    return true;
}

static void forget(void *context, const char *filter) {
}

static void count_forgotten(void *context, const char *filter) {
    static uint64_t when;
    static size_t count;
    count = when == uv_now(&carrier.loop) ? count + 1 : 1;
    when = uv_now(&carrier.loop);
    most_forgotten = count > most_forgotten ? count : most_forgotten;
    forgotten++;
}

static bool no(void *context) {
    return false;
}

static void remove_device(void *context, int64_t id, const char *ident) {
}

static void emptied(void *context, int64_t id, const char *field) {
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *what, int *mid) {
    *mid = ++published;
    if (strstr(what->topic, "/mark") != NULL)
        snprintf(mark, sizeof mark, "%.*s", (int)what->length, (const char *)what->payload);
    return MQTT_SENT;
}

static void set_up(void) {
    const struct mqtt_asker asker = {NULL, ask, count_forgotten, forget, forget, forget, no};
    carrier_open(&carrier);
    carrier.carrier.publish = publish;
    bus = bus_new("trackbus", "me", carrier.outbox, &carrier.carrier);
    publisher = publisher_new(&carrier.loop);
    generation = generation_new(&carrier.loop, bus, publisher);
    clearing = clearing_new(&carrier.loop, bus, &asker, publisher, generation, remove_device, emptied, NULL);
    carrier_go_up(&carrier);
    publisher_open(publisher);
}

static void tear_down(void) {
    publisher_stop(publisher);
    clearing_stop(clearing);
    carrier_close(&carrier);
    clearing_free(clearing);
    generation_free(generation);
    publisher_free(publisher);
    bus_free(bus);
}

TestSuite(clearing, .init = set_up, .fini = tear_down);

// The broker has taken all that it was handed, and so on.
static void answer_all(void) {
    static int answered;
    while (answered < published)
        outbox_published(carrier.outbox, ++answered, MQTT_TAKEN, "");
    outbox_link_ready(carrier.outbox);
}

static void begin(int64_t count) {
    for (int64_t id = 1; id <= count; id++)
        clearing_begin(clearing, id, NULL);
}

static void await_questions(size_t count) {
    int64_t end = clock_ticks() + PATIENCE;
    for (asked = 0; asked < count; answer_all()) {
        uv_run(&carrier.loop, UV_RUN_ONCE);
        cr_assert(clock_ticks() < end, "the broker is asked %zu times", asked);
    }
}

static void tell_everything(void) {
    char field[16];
    for (int64_t id = 1; id <= SOME; id++)
        for (int i = 0; i < FIELDS; i++) {
            snprintf(field, sizeof field, "field.%d", i);
            clearing_heard_telemetry(clearing, id, field);
        }
}

// Each comes back once.
static void hear_mark(void) {
    static char heard[16];
    if (strcmp(heard, mark) == 0)
        return;
    strcpy(heard, mark);
    clearing_heard_mark(clearing, &(struct mqtt_received){.payload = mark, .length = strlen(mark)});
}

// A broker that is asked for everything has millions of topics to tell: it leaves some out, and its answers to our messages
// wait behind.
Test(clearing, asks_for_a_few_devices_at_once) {
    begin(MANY);
    await_questions(2 * AT_ONCE);
    cr_expect(!of_all, "all telemetry is asked for");
    cr_expect(most <= AT_ONCE, "%zu devices at once", most);
}

// What it leaves is asked for again.
Test(clearing, leaves_room_for_the_messages_of_others) {
    begin(SOME);
    await_questions(SOME);
    tell_everything();
    cr_expect(outbox_count(carrier.outbox) < WAITING, "%zu messages wait", outbox_count(carrier.outbox));
    cr_assert(outbox_count(carrier.outbox) > 1000);
    hear_mark();
    await_questions(SOME);
    cr_expect(clearing_is_under_way(clearing, 1) && clearing_is_under_way(clearing, SOME));
}

// A broker that tells at once is asked on at once, whatever the time.
Test(clearing, goes_on_as_soon_as_the_broker_has_told) {
    begin(MANY);
    await_questions(AT_ONCE);
    for (int i = 0; i < 20; i++) {
        asked = 0;
        answer_all();
        hear_mark();
        cr_assert_leq(uv_backend_timeout(&carrier.loop), 1, "it waits for %d ms",
                      uv_backend_timeout(&carrier.loop));
        await_questions(AT_ONCE);
    }
    cr_expect(most <= AT_ONCE, "%zu devices at once", most);
}

// What a round has brought is much to look at.
Test(clearing, ends_a_round_a_few_devices_at_a_time) {
    int64_t end = clock_ticks() + PATIENCE;
    size_t count = 0;
    begin(SOME * 10);
    for (asked = 0; asked < SOME * 10 && clock_ticks() < end; answer_all(), hear_mark())
        uv_run(&carrier.loop, UV_RUN_ONCE);
    for (count = asked; forgotten < count && clock_ticks() < end; answer_all(), hear_mark())
        uv_run(&carrier.loop, UV_RUN_ONCE);
    cr_assert_geq(forgotten, SOME * 10, "%zu rounds have ended", forgotten);
    cr_assert_leq(most_forgotten, 100, "%zu in one turn", most_forgotten);
}
