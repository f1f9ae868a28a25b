// The generation: what it vouches for, and when it is said.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/state/generation.h"
#include "tests/carrier.h"

#define TOPIC "t/state/gw/instances/me/generation"

static struct carrier broker;
static struct bus *bus;
static struct publisher *publisher;
static struct generation *generation;

static void set_up(void) {
    carrier_open_as(&broker, "t");
    bus = bus_new("t", "me", broker.outbox, &broker.carrier);
    publisher = publisher_new(&broker.loop);
    generation = generation_new(&broker.loop, bus, publisher);
    publisher_open(publisher);
}

static void tear_down(void) {
    publisher_stop(publisher);
    carrier_close(&broker);
    generation_free(generation);
    publisher_free(publisher);
    bus_free(bus);
}

TestSuite(generation, .init = set_up, .fini = tear_down);

static void connect_to(const char *retained) {
    carrier_go_up(&broker);
    generation_connected(generation);
    if (retained != NULL)
        generation_received(
            generation, "me/generation",
            &(struct mqtt_received){.payload = retained, .length = strlen(retained), .retain = true});
}

static uint32_t write_something(void) {
    bus_publish_text(bus, "t/state/something", "1", 1, MQTT_RETAINED);
    return generation_write(generation);
}

static size_t count_said(void) {
    size_t count = 0;
    for (size_t i = 0; i < broker.count; i++)
        count += strcmp(broker.carried[i].topic, TOPIC) == 0;
    return count;
}

static uint32_t said_last(void) {
    uint32_t number = 0;
    for (size_t i = 0; i < broker.count; i++)
        if (strcmp(broker.carried[i].topic, TOPIC) == 0)
            number = (uint32_t)strtoul(broker.carried[i].payload, NULL, 10);
    return number;
}

static bool is_over;

static void on_over(uv_timer_t *timer) {
    is_over = true;
    uv_close((uv_handle_t *)timer, NULL);
}

// Only the passing of time brings a generation to its end.
static void pass(uint64_t milliseconds) {
    uv_timer_t timer;
    is_over = false;
    uv_timer_init(&broker.loop, &timer);
    uv_timer_start(&timer, on_over, milliseconds, 0);
    carrier_run_until(&broker, &is_over);
    uv_run(&broker.loop, UV_RUN_NOWAIT); // the timer is closed
}

Test(generation, is_said_after_the_broker_has_what_belongs_to_it) {
    connect_to(NULL);
    generation_settled(generation);
    uint32_t written = write_something();
    cr_assert(written > 0);
    pass(1500);
    cr_assert_eq(count_said(), 0, "the broker has not acknowledged it");
    carrier_answer_all(&broker);
    pass(300);
    cr_assert_eq(count_said(), 1);
    cr_assert_eq(said_last(), written);
}

Test(generation, is_not_said_when_nothing_changes) {
    connect_to(NULL);
    generation_settled(generation);
    pass(1500);
    cr_assert_eq(count_said(), 0);
}

Test(generation, is_not_said_before_it_is_known_what_the_broker_has) {
    connect_to(NULL);
    write_something();
    carrier_answer_all(&broker);
    pass(1500);
    cr_assert_eq(count_said(), 0);
}

Test(generation, is_never_under_way_twice) {
    connect_to(NULL);
    generation_settled(generation);
    write_something();
    pass(1200);
    carrier_answer_all(&broker);
    pass(300);
    write_something();
    pass(1500);
    cr_assert_eq(count_said(), 1, "the first one is not acknowledged");
    carrier_answer_all(&broker);
    pass(300);
    cr_assert_eq(count_said(), 2);
}

// Everything that a broker with that number does not have, up to this connection.
static struct generation_span lost_at(uint32_t number) {
    char text[16];
    snprintf(text, sizeof text, "%u", number);
    generation_link_down(generation);
    carrier_go_down(&broker);
    connect_to(number > 0 ? text : NULL);
    return generation_settled(generation);
}

Test(generation, tells_what_a_broker_has_lost) {
    connect_to(NULL);
    generation_settled(generation);
    uint32_t first = write_something();
    carrier_answer_all(&broker);
    pass(1300);
    uint32_t second = write_something();
    cr_assert(second > first);
    struct generation_span nothing = lost_at(second), younger = lost_at(first), all = lost_at(0);
    cr_assert(nothing.after >= second && nothing.before > second);
    cr_assert(younger.after >= first && younger.after < second && second < younger.before);
    cr_assert(all.after < first && second < all.before);
}

// It would be our own number that a broker tells which has lost all.
Test(generation, that_was_not_acknowledged_is_not_said_again_on_the_next_connection) {
    connect_to(NULL);
    generation_settled(generation);
    write_something();
    carrier_answer_all(&broker);
    pass(1300);
    cr_assert_eq(count_said(), 1);
    cr_assert_eq(lost_at(0).after, 0);
    pass(300);
    cr_assert_eq(count_said(), 1, "what it has is not known");
    cr_assert_eq(generation_vouched(generation), 0);
}

// The answer came, and in the same turn the connection went.
Test(generation, that_was_acknowledged_just_before_the_end_is_vouched_for) {
    connect_to(NULL);
    generation_settled(generation);
    uint32_t written = write_something();
    carrier_answer_all(&broker);
    pass(1300);
    cr_assert_eq(said_last(), written);
    carrier_answer_all(&broker);
    generation_link_down(generation);
    carrier_go_down(&broker);
    cr_assert_eq(generation_vouched(generation), written);
}

Test(generation, leaves_out_what_is_written_on_this_connection) {
    connect_to(NULL);
    uint32_t written = write_something();
    struct generation_span lost = generation_settled(generation);
    cr_assert(written >= lost.before);
}

// Of another run, from a clock that was ahead. It vouches for nothing of this one.
Test(generation, goes_on_above_what_the_broker_says) {
    connect_to("3999999999");
    uint32_t before = write_something();
    struct generation_span lost = generation_settled(generation);
    cr_assert(lost.after < before && before < lost.before);
    cr_assert(write_something() > 3999999999U);
}

Test(generation, reads_nonsense_as_nothing) {
    static const char *const payloads[] = {"", "x", "-5", "99999999999999999999999999", "{}", "0"};
    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        generation_link_down(generation);
        carrier_go_down(&broker);
        connect_to(payloads[i]);
        cr_assert_eq(generation_settled(generation).after, 0, "%s", payloads[i]);
    }
}
