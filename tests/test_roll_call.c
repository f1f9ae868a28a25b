// The roll call: when it is known what the broker retains.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/broker/roll_call.h"
#include "tests/carrier.h"

static struct carrier broker;
static struct bus *bus;
static struct roll_call *roll_call;
static bool answered, settled;
static unsigned unheard;

static void on_answered(void *context) {
    cr_assert(!answered, "it was answered twice");
    answered = true;
}

static void on_settled(void *context) {
    cr_assert(answered && !settled);
    settled = true;
}

static void on_unheard(void *context) {
    unheard++;
}

static void set_up(void) {
    carrier_open_as(&broker, "t");
    bus = bus_new("t", "me", broker.outbox, &broker.carrier);
    roll_call = roll_call_new(
        &broker.loop, bus,
        &(struct roll_call_handlers){.answered = on_answered, .settled = on_settled, .unheard = on_unheard});
    answered = settled = false;
    unheard = 0;
}

static void tear_down(void) {
    roll_call_stop(roll_call);
    carrier_close(&broker);
    roll_call_free(roll_call);
    bus_free(bus);
}

TestSuite(roll_call, .init = set_up, .fini = tear_down);

static void hear(const char *topic, const char *payload, bool retain) {
    roll_call_received(roll_call, topic,
                       &(struct mqtt_received){
                           .topic = "t/…", .payload = payload, .length = strlen(payload), .retain = retain});
}

static void connect_and_ask(void) {
    carrier_go_up(&broker);
    roll_call_begin(roll_call);
    roll_call_ask(roll_call);
    cr_assert_str_eq(carrier_last(&broker)->topic, "t/state/gw/instances/me/sync");
    cr_assert_eq(carrier_last(&broker)->retain, MQTT_NOT_RETAINED);
}

static void answer(void) {
    char question[64];
    strcpy(question, carrier_last(&broker)->payload);
    carrier_answer_all(&broker);
    hear("instances/me/sync", question, false);
}

Test(roll_call, settles_after_the_answer_and_a_quiet_period) {
    cr_assert(roll_call_is_open(roll_call) && !roll_call_is_done(roll_call));
    connect_and_ask();
    answer();
    cr_assert(answered && !settled);
    cr_assert(roll_call_is_open(roll_call) && !roll_call_is_done(roll_call));
    carrier_run_until(&broker, &settled);
    cr_assert(!roll_call_is_open(roll_call) && roll_call_is_done(roll_call));
}

Test(roll_call, takes_nothing_else_for_the_answer) {
    connect_and_ask();
    char question[64];
    strcpy(question, carrier_last(&broker)->payload);
    hear("instances/me/sync", "\"1\"", false);
    hear("instances/me2/sync", question, false);
    hear("instances/me/queue", question, false);
    hear("devices/1/connected", question, true);
    cr_expect(!answered);
    answer();
    cr_expect(answered);
    hear("instances/me/sync", question, false); // twice, as QoS 1 may be
}

Test(roll_call, asks_again_when_the_broker_drops_the_question) {
    connect_and_ask();
    size_t count = broker.count;
    bool again = false;
    while (!again) {
        uv_run(&broker.loop, UV_RUN_ONCE);
        again = broker.count > count;
    }
    cr_expect_str_eq(carrier_last(&broker)->payload, broker.carried[count - 1].payload,
                     "the answer to the first question would do as well");
    cr_expect(!answered);
}

// Runs until so many more questions were asked; the broker takes each, and between them delivers what it retains.
static void let_it_ask(unsigned times, bool delivers) {
    while (times > 0) {
        size_t count = broker.count;
        while (broker.count == count)
            uv_run(&broker.loop, UV_RUN_ONCE);
        carrier_answer_all(&broker);
        if (delivers)
            hear("devices/1/connected", "true", true);
        times--;
    }
}

Test(roll_call, tells_once_that_questions_do_not_come_back, .timeout = 60) {
    connect_and_ask();
    carrier_answer_all(&broker);
    let_it_ask(6, true);
    cr_expect_eq(unheard, 0, "the question is behind what the broker delivers");
    let_it_ask(7, false);
    cr_expect_eq(unheard, 1);
}

Test(roll_call, begins_anew_with_each_connection) {
    connect_and_ask();
    char old[64];
    strcpy(old, carrier_last(&broker)->payload);
    answer();
    carrier_go_down(&broker);
    roll_call_lost(roll_call);
    cr_expect(!roll_call_is_done(roll_call));
    cr_expect(roll_call_is_open(roll_call), "what had not settled is not known");
    answered = false;
    connect_and_ask();
    cr_expect_str_neq(carrier_last(&broker)->payload, old);
    hear("instances/me/sync", old, false);
    cr_expect(!answered, "the answer of an earlier connection says nothing of this one");
    answer();
    carrier_run_until(&broker, &settled);
}

// Else it would be asked for ever: what settles was over before the question.
Test(roll_call, takes_no_answer_before_the_question) {
    connect_and_ask();
    char old[64];
    strcpy(old, carrier_last(&broker)->payload);
    carrier_go_down(&broker);
    roll_call_lost(roll_call);
    roll_call_begin(roll_call);
    hear("instances/me/sync", old, false);
    hear("instances/me/sync", "", false);
    cr_expect(!answered);
    carrier_go_up(&broker);
    roll_call_ask(roll_call);
    answer();
    cr_expect(answered);
    carrier_run_until(&broker, &settled);
}

Test(roll_call, remembers_that_it_was_done) {
    connect_and_ask();
    answer();
    carrier_run_until(&broker, &settled);
    roll_call_lost(roll_call);
    cr_expect(!roll_call_is_open(roll_call), "the broker was heard, and is only away");
    cr_expect(!roll_call_is_done(roll_call));
}

static int64_t settling(void (*disturb)(void)) {
    uint64_t begun = uv_now(&broker.loop);
    answer();
    while (!settled) {
        disturb();
        uv_run(&broker.loop, UV_RUN_ONCE);
    }
    return (int64_t)(uv_now(&broker.loop) - begun);
}

static unsigned retained_left;

static void hear_retained(void) {
    if (retained_left == 0)
        return;
    retained_left--;
    hear("devices/1", "{}", true);
}

// The loop of the carrier wakes twice a second for the outbox's tick, so each turn is one message. The first turn may be
// over at once.
Test(roll_call, waits_for_the_end_of_what_is_retained) {
    connect_and_ask();
    retained_left = 4;
    cr_expect_geq(settling(hear_retained), 1000 + 2 * 400, "two turns of at least some 400 ms each, and 1 s");
    cr_expect_eq(retained_left, 0);
}
