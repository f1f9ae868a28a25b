// The outbox with a broker of the test's own in place of the link: what is handed over and when, in which
// order, and what becomes of what the broker does not take.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "tests/calm_clock.h"
#include "tests/temporary.h"

#define WINDOW   4
#define DEADLINE 15  // seconds
#define SENT_MAX 100 // messages handed over in one test

// --- the broker: notes what it is handed, and answers when the test says so ---

static struct broker {
    bool up;
    bool endless;   // takes more than SENT_MAX
    bool has_ended; // the connection, which nobody has heard of yet
    bool was_reset;
    bool is_held;        // by us: nothing is read
    unsigned window;     // 0: any
    int answered_within; // message that is answered while the second one is handed over; 0: none
    size_t count;
    char texts[SENT_MAX][8];
} broker;

static char directory[TEMPORARY_MAX];
static uv_loop_t loop;
static struct store *store;
static struct outbox *outbox;
static unsigned inflight = WINDOW; // that it is opened with

static bool is_up(void *context) {
    return broker.up;
}

static bool is_alive(void *context) {
    return !broker.has_ended;
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    if (!broker.up)
        return MQTT_NOT_NOW;
    if (publish->topic[0] == '\0')
        return MQTT_REFUSED;
    cr_assert(broker.count < SENT_MAX || broker.endless);
    snprintf(broker.texts[broker.count++ % SENT_MAX], sizeof broker.texts[0], "%.*s", (int)publish->length,
             (const char *)publish->payload);
    *mid = (int)broker.count;
    if (broker.count == 2 && broker.answered_within > 0)
        outbox_published(outbox, broker.answered_within, MQTT_TAKEN, "");
    return MQTT_SENT;
}

static void reset(void *context, const char *why) {
    broker.was_reset = true;
}

static bool is_held(void *context) {
    return broker.is_held;
}

static unsigned window_of_broker(void *context) {
    return broker.window > 0 ? broker.window : WINDOW;
}

static const struct mqtt_carrier carrier = {.is_up = is_up,
                                            .is_alive = is_alive,
                                            .publish = publish,
                                            .window = window_of_broker,
                                            .is_held = is_held,
                                            .reset = reset};

// Of the nth message that it was handed, from 1.
static void answer(int nth, enum mqtt_answer answer) {
    outbox_published(outbox, nth, answer, "a reason");
    outbox_link_ready(outbox);
}

static void go_up(void) {
    broker.up = true;
    outbox_link_up(outbox);
}

static void go_down(void) {
    broker.up = false;
    outbox_link_down(outbox, MQTT_ENDED_BY_US);
}

static enum mqtt_end closing; // how the broker closes a connection
static unsigned closings;

static void close_on_us(void) {
    broker.up = false;
    closings++;
    outbox_link_down(outbox, closing);
}

static void expect_handed(const char *expected) {
    char texts[SENT_MAX * 9] = "";
    for (size_t i = 0; i < broker.count; i++)
        sprintf(texts + strlen(texts), "%s%s", i > 0 ? " " : "", broker.texts[i]);
    cr_assert_str_eq(texts, expected, "'%s' were handed over, expected '%s'", texts, expected);
}

// --- around it ---

static enum outbox_intake intake_now;

static int set_aside;

static void note_aside(void *context) {
    set_aside++;
}

static void note_intake(void *context, enum outbox_intake intake) {
    intake_now = intake;
}

static void open_outbox(void) {
    char path[96], *reason;
    snprintf(path, sizeof path, "%s/store.db", directory);
    store = store_open(&loop, path, &reason);
    cr_assert(store != NULL, "%s", reason);
    broker = (struct broker){0};
    closing = MQTT_ENDED_BY_BROKER;
    outbox = outbox_new(&loop, store, "t", inflight, 1 << 20,
                        &(struct outbox_handlers){NULL, note_intake, note_aside});
    outbox_set_carrier(outbox, &carrier);
}

static void close_outbox(void) {
    outbox_stop(outbox);
    store_stop(store);
    uv_run(&loop, UV_RUN_DEFAULT);
    outbox_free(outbox);
    store_close(store);
}

static void set_up(void) {
    calm_clock_start();
    make_temporary(directory, "outbox");
    uv_loop_init(&loop);
    open_outbox();
}

static void tear_down(void) {
    char command[96];
    close_outbox();
    cr_assert(uv_loop_close(&loop) == 0);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert(system(command) == 0);
}

static void begin_again(void) {
    close_outbox();
    open_outbox();
}

TestSuite(outbox, .init = set_up, .fini = tear_down);

static uint64_t put(const char *text, int qos) {
    return outbox_put(outbox, &(struct mqtt_publish){
                                  .topic = "a/topic", .payload = text, .length = strlen(text), .qos = qos});
}

// "1" to "count", QoS 1.
static void put_all(int count) {
    for (int i = 1; i <= count; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        put(text, 1);
    }
}

static void run_until(bool (*condition)(size_t value), size_t value) {
    time_t end = time(NULL) + DEADLINE;
    while (!condition(value)) {
        cr_assert(time(NULL) < end, "what was waited for did not come");
        calm_clock_step(&loop); // the outbox ticks
    }
}

static bool were_handed(size_t count) {
    return broker.count >= count;
}

static bool is_safe(size_t number) {
    return outbox_is_safe(outbox, number);
}

struct wait {
    struct outbox_waiter waiter;
    int told;
    bool safe;
};

static void note(struct outbox_waiter *waiter, bool safe) {
    struct wait *wait = (struct wait *)waiter;
    wait->told++;
    wait->safe = safe;
}

static void wait_for(struct wait *wait, uint64_t number) {
    *wait = (struct wait){.waiter = {.first = number, .last = number, .done = note}};
    outbox_when_safe(outbox, &wait->waiter);
}

// --- what the broker takes ---

Test(outbox, hands_over_a_window_in_order) {
    put_all(6);
    expect_handed("");
    go_up();
    expect_handed("1 2 3 4");
    answer(2, MQTT_TAKEN);
    expect_handed("1 2 3 4 5");
    cr_assert(!outbox_is_safe(outbox, 1) && !outbox_is_safe(outbox, 2), "1 is not");
    answer(1, MQTT_TAKEN);
    cr_assert(outbox_is_safe(outbox, 2) && !outbox_is_safe(outbox, 3));
    go_down();
    go_up();
    expect_handed("1 2 3 4 5 6 3 4 5 6");
    cr_assert(outbox_count(outbox) == 4);
}

static bool was_reset(size_t value) {
    return broker.was_reset;
}

// Brokers that have too much for us drop what they have to say, acknowledgements too.
Test(outbox, begins_anew_when_an_answer_is_left_out) {
    go_up();
    put_all(4);
    answer(2, MQTT_TAKEN);
    run_until(was_reset, 0);
    go_down();
    go_up();
    expect_handed("1 2 3 4 1 3 4");
    answer(5, MQTT_TAKEN);
    cr_assert(outbox_count(outbox) == 2);
}

Test(outbox, lets_devices_wait_for_a_broker_that_is_there) {
    broker.endless = true;
    go_up();
    put_all(5000);
    cr_assert(intake_now == OUTBOX_TAKES);
    put_all(100);
    cr_assert(intake_now == OUTBOX_BUSY);
    for (int i = 1; i < 2550; i++)
        answer(i, MQTT_TAKEN);
    cr_assert(intake_now == OUTBOX_BUSY);
    for (int i = 2550; i <= 2700; i++)
        answer(i, MQTT_TAKEN);
    cr_assert(intake_now == OUTBOX_TAKES);
}

// They would wait for ever, and the disk is there for that.
Test(outbox, lets_no_device_wait_for_a_broker_that_is_away) {
    put_all(6000);
    cr_assert(intake_now == OUTBOX_TAKES);
    broker.endless = true;
    go_up();
    outbox_link_ready(outbox);
    cr_assert(intake_now == OUTBOX_BUSY);
    go_down();
    outbox_link_ready(outbox);
    cr_assert(intake_now == OUTBOX_TAKES);
}

Test(outbox, is_done_with_qos_0_once_it_is_written) {
    struct wait wait;
    wait_for(&wait, put("1", 0));
    put("2", 1);
    go_up();
    expect_handed("1 2");
    cr_assert(wait.told == 0);
    answer(1, MQTT_TAKEN);
    cr_assert(wait.told == 1 && wait.safe);
    cr_assert(outbox_count(outbox) == 1);
}

Test(outbox, hands_over_qos_0_again_that_was_not_written) {
    go_up();
    put("1", 0);
    put("2", 1);
    go_down();
    go_up();
    run_until(were_handed, 4);
    expect_handed("1 2 1 2");
    answer(3, MQTT_TAKEN);
    cr_assert(outbox_count(outbox) == 1);
}

Test(outbox, passes_more_than_a_window_of_qos_0) {
    for (int i = 0; i < 3 * WINDOW; i++)
        put("x", 0);
    go_up();
    for (int i = 1; i <= 3 * WINDOW; i++)
        answer(i, MQTT_TAKEN);
    cr_assert(broker.count == 3 * WINDOW && outbox_count(outbox) == 0);
}

// --- what it does not take ---

Test(outbox, sends_again_what_is_not_taken_for_now) {
    struct wait waits[7];
    go_up();
    put_all(6);
    for (uint64_t i = 1; i <= 6; i++)
        wait_for(&waits[i], i);
    answer(1, MQTT_TAKEN);
    answer(2, MQTT_TAKEN_LATER);
    answer(4, MQTT_TAKEN_LATER);
    calm_clock_step(&loop);     // a tick
    expect_handed("1 2 3 4 5"); // 3 and 5 have no answer yet
    answer(3, MQTT_TAKEN);
    answer(5, MQTT_TAKEN);
    run_until(were_handed, 6);
    expect_handed("1 2 3 4 5 2"); // alone
    cr_assert(waits[1].told == 1 && waits[2].told == 0 && waits[5].told == 0);
    answer(6, MQTT_TAKEN);
    expect_handed("1 2 3 4 5 2 4");
    answer(7, MQTT_TAKEN);
    expect_handed("1 2 3 4 5 2 4 6");
    answer(8, MQTT_TAKEN);
    for (size_t i = 1; i <= 6; i++)
        cr_assert(waits[i].told == 1 && waits[i].safe);
    put_all(WINDOW + 1); // and the window is whole again
    expect_handed("1 2 3 4 5 2 4 6 1 2 3 4");
}

// Until the broker takes it, however long that is; meanwhile it is on disk, and so safe.
Test(outbox, keeps_what_is_not_taken_for_now) {
    struct wait first, second;
    go_up();
    wait_for(&first, put("1", 1));
    for (int i = 1; i <= 15; i++) {
        run_until(were_handed, (size_t)i);
        answer(i, MQTT_TAKEN_LATER);
    }
    wait_for(&second, put("2", 1));
    run_until(is_safe, 2);
    cr_assert(first.told == 1 && first.safe && second.told == 1 && second.safe);
    run_until(were_handed, 16);
    answer(16, MQTT_TAKEN);
    run_until(were_handed, 17);
    cr_assert_str_eq(broker.texts[16], "2");
    cr_assert(outbox_count(outbox) == 1);
}

Test(outbox, sends_again_after_a_new_connection) {
    go_up();
    put_all(3);
    answer(1, MQTT_TAKEN_LATER);
    go_down();
    go_up();
    run_until(were_handed, 4);
    expect_handed("1 2 3 1");
    answer(4, MQTT_TAKEN);
    expect_handed("1 2 3 1 2 3");
}

// A message that the broker closes the connection for takes the answers of all others with it.
Test(outbox, sends_one_at_a_time_after_a_connection_without_an_answer) {
    go_up();
    put_all(6);
    answer(1, MQTT_TAKEN);
    close_on_us();
    go_up();
    expect_handed("1 2 3 4 5 2 3 4 5"); // there was one
    close_on_us();
    go_up();
    run_until(were_handed, 10);
    expect_handed("1 2 3 4 5 2 3 4 5 2");
    answer(10, MQTT_NEVER_TAKEN);
    answer(11, MQTT_TAKEN);
    answer(12, MQTT_TAKEN);
    answer(13, MQTT_TAKEN);
    expect_handed("1 2 3 4 5 2 3 4 5 2 3 4 5 6");
}

// It must not stand in front of the others for ever.
Test(outbox, gives_up_what_is_refused_without_a_reason) {
    struct wait first;
    int tries = 0;
    go_up();
    wait_for(&first, put("1", 1));
    put("2", 1);
    answer(2, MQTT_TAKEN_LATER);
    answer(1, MQTT_NOT_TAKEN);
    for (tries = 3; outbox_count(outbox) == 2; tries++) {
        run_until(were_handed, (size_t)tries);
        cr_assert_str_eq(broker.texts[tries - 1], "1");
        answer(tries, MQTT_NOT_TAKEN);
    }
    cr_assert(tries > 10, "only %d times", tries - 2);
    run_until(were_handed, (size_t)tries);
    cr_assert_str_eq(broker.texts[tries - 1], "2");
    cr_assert(first.told == 1 && first.safe, "it was on disk by then");
}

Test(outbox, tells_what_is_refused_for_good) {
    struct wait first, second;
    go_up();
    wait_for(&first, put("1", 1));
    wait_for(&second, put("2", 1));
    answer(1, MQTT_NEVER_TAKEN);
    cr_assert(first.told == 1 && !first.safe && second.told == 0);
    answer(2, MQTT_TAKEN);
    cr_assert(second.told == 1 && second.safe);
    cr_assert(outbox_count(outbox) == 0);
    wait_for(&first, outbox_put(outbox, &(struct mqtt_publish){.topic = "", .qos = 1}));
    cr_assert(outbox_count(outbox) == 0);
    put("3", 0);
    expect_handed("1 2 3");
}

static uint64_t put_at(const char *topic) {
    return outbox_put(outbox, &(struct mqtt_publish){.topic = topic, .payload = "x", .length = 1, .qos = 1});
}

static void wait_for_reports(struct wait *wait, uint64_t first, uint64_t last) {
    wait->told = 0;
    wait->waiter = (struct outbox_waiter){.first = first, .last = last, .reports = true, .done = note};
    outbox_when_safe(outbox, &wait->waiter);
}

// Log entries of a report, and captured bytes, stand between its messages.
Test(outbox, who_waits_for_reports_is_not_told_of_a_log_entry_that_is_refused) {
    struct wait before, after, other;
    go_up();
    uint64_t first = put_at("t/message/gw/devices/1"), entry = put_at("t/log/gw/devices/1/x");
    uint64_t last = put_at("t/message/gw/channels/1/1");
    wait_for_reports(&before, first, last);
    answer(2, MQTT_NEVER_TAKEN);
    wait_for_reports(&after, first, last);
    wait_for(&other, entry);
    cr_assert(before.told == 0 && after.told == 0 && other.told == 1 && !other.safe);
    answer(1, MQTT_TAKEN);
    answer(3, MQTT_TAKEN);
    cr_assert(before.told == 1 && before.safe && after.told == 1 && after.safe);
}

Test(outbox, who_waits_for_reports_is_told_of_one_that_is_refused) {
    struct wait before, after;
    go_up();
    uint64_t first = put_at("t/message/gw/devices/1"), last = put_at("t/log/gw/devices/1/x");
    wait_for_reports(&before, first, last);
    answer(1, MQTT_NEVER_TAKEN);
    wait_for_reports(&after, first, last);
    cr_assert(before.told == 1 && !before.safe && after.told == 1 && !after.safe);
}

// --- a broker that says nothing ---

// What was read back from the disk is safe, and stands in front of what is not.
Test(outbox, writes_what_waits_behind_what_was_read_back) {
    put_all(3);
    close_outbox(); // on disk for the next one
    open_outbox();
    cr_assert(outbox_count(outbox) == 3);
    go_up();
    run_until(were_handed, 3);
    uint64_t number = put("4", 1);
    cr_assert(!outbox_is_safe(outbox, number));
    run_until(is_safe, (size_t)number);
    for (int i = 1; i <= 3; i++)
        answer(i, MQTT_TAKEN);
    run_until(were_handed, 4);
    expect_handed("1 2 3 4");
}

// --- a backlog on disk, with a broker that is back ---

// So many messages of an earlier run, the broker connected.
static void begin_with_backlog(int count) {
    put_all(count);
    close_outbox();
    open_outbox();
    broker.endless = true;
    go_up();
    run_until(were_handed, WINDOW);
}

static bool has_intake(size_t intake) {
    return intake_now == (enum outbox_intake)intake;
}

// It would only go to the disk, and the backlog would grow for ever.
Test(outbox, lets_devices_wait_while_a_backlog_goes, .timeout = 180) {
    begin_with_backlog(6000);
    answer(1, MQTT_TAKEN);
    put_all(5100);
    cr_assert_eq(intake_now, OUTBOX_BUSY);
    for (int i = 2; i <= 1000; i++) { // half as many are taken in as go out
        run_until(were_handed, (size_t)i);
        answer(i, MQTT_TAKEN);
    }
    cr_assert_eq(intake_now, OUTBOX_TAKES);
    put_all(500);
    cr_assert_eq(intake_now, OUTBOX_BUSY);
}

Test(outbox, lets_no_device_wait_for_a_backlog_that_does_not_go, .timeout = 180) {
    begin_with_backlog(6000);
    answer(1, MQTT_TAKEN);
    put_all(5100);
    cr_assert_eq(intake_now, OUTBOX_BUSY);
    run_until(has_intake, OUTBOX_TAKES); // the broker has fallen silent
    answer(2, MQTT_TAKEN);
    cr_assert_eq(intake_now, OUTBOX_BUSY);
    go_down();
    outbox_link_ready(outbox);
    cr_assert_eq(intake_now, OUTBOX_TAKES);
}

// In the end as many come as go, and more than a window waits all the time.
Test(outbox, has_caught_up_although_messages_keep_coming, .timeout = 180) {
    begin_with_backlog(6000);
    time_t end = time(NULL) + DEADLINE;
    for (int next = 1; !outbox_keeps_up(outbox); next++) {
        cr_assert(time(NULL) < end, "it still writes to disk after %d messages", next);
        if (next > 5900)
            put("new", 1);
        while (!were_handed((size_t)next))
            calm_clock_step(&loop);
        answer(next, MQTT_TAKEN);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

// --- a broker that closes the connection at what it does not take ---

static bool
    loses_answers; // what it says of messages before the one that it closes at is lost with the connection

static size_t kept_answers; // all but the first ones on the connection

static size_t handed_before; // this connection

static char delivered[SENT_MAX * 9];

static void note_delivered(size_t nth) {
    sprintf(delivered + strlen(delivered), "%s%s", delivered[0] != '\0' ? " " : "",
            broker.texts[(nth - 1) % SENT_MAX]);
}

// Answers what is handed over on this connection, until it closes at a message "P", or nothing is left.
static void serve(size_t first) {
    for (size_t nth = first; nth <= broker.count; nth++) {
        size_t last = broker.count; // of those under way now
        bool closes = false;
        for (size_t i = nth; i <= last; i++)
            closes = closes || broker.texts[(i - 1) % SENT_MAX][0] == 'P';
        bool is_lost = closes && loses_answers && nth >= first + kept_answers;
        if (broker.texts[(nth - 1) % SENT_MAX][0] == 'P' || is_lost) {
            close_on_us();
            return;
        }
        note_delivered(nth);
        answer((int)nth, MQTT_TAKEN);
    }
}

static bool is_handed_or_idle(size_t until) {
    return broker.count > handed_before || uv_now(&loop) >= until;
}

// Whether anything is handed over on this connection, which lives for long enough.
static bool is_handed_anything(void) {
    uv_update_time(&loop);
    run_until(is_handed_or_idle, (size_t)uv_now(&loop) + 4000);
    return broker.count > handed_before;
}

// Serves connections until nothing waits, or what waits stays on an idle connection; returns how many it took.
static int serve_all(void) {
    int connections = 0;
    delivered[0] = '\0';
    while (outbox_count(outbox) > 0) {
        cr_assert(connections++ < 100, "the broker closes the connection for ever");
        handed_before = broker.count;
        go_up();
        bool handed = is_handed_anything();
        serve(handed_before + 1);
        if (broker.up)
            go_down();
        if (!handed)
            break;
    }
    return connections;
}

static void put_to(const char *topic, const char *text) {
    outbox_put(outbox,
               &(struct mqtt_publish){.topic = topic, .payload = text, .length = strlen(text), .qos = 1});
}

static uint64_t put_retained(const char *topic, const char *text) {
    return outbox_put(
        outbox,
        &(struct mqtt_publish){
            .topic = topic, .payload = text, .length = strlen(text), .qos = 1, .retain = MQTT_RETAINED});
}

static void put_report(const char *text) {
    put_to("t/message/gw/devices/1", text);
}

static const char *const poisoned[][2] = {
    {"1 2 P1 3 4 5 6", "1 2 3 4 5 6"},
    {"P1 1 2", "1 2"},
    {"1 P1 2", "1 2"},
    {"P1 P2 1", "1"},
    {"1 2 3 P1 4 5 6 P2 7 8 9", "1 2 3 4 5 6 7 8 9"},
};
#define POISONED (sizeof poisoned / sizeof poisoned[0])

static void expect_only_the_poison_aside(size_t row) {
    char texts[64], *rest = texts, *word;
    int poison = 0;
    broker.count = 0;
    broker.endless = true;
    strcpy(texts, poisoned[row][0]);
    while ((word = strsep(&rest, " ")) != NULL) {
        poison += *word == 'P';
        put_report(word);
    }
    int connections = serve_all();
    cr_expect_str_eq(delivered, poisoned[row][1], "row %zu: delivered '%s'", row, delivered);
    cr_expect_eq(set_aside, poison, "row %zu: %d set aside", row, set_aside);
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_leq(connections, 8 * poison + 2, "row %zu: %d connections", row, connections);
    set_aside = 0;
}

Test(outbox, sets_aside_what_the_broker_closes_the_connection_at) {
    for (size_t row = 0; row < POISONED; row++)
        expect_only_the_poison_aside(row);
}

Test(outbox, finds_it_by_halving_where_answers_are_lost_with_the_connection) {
    loses_answers = true;
    for (size_t row = 0; row < POISONED; row++)
        expect_only_the_poison_aside(row);
}

#define MANY 32

// A broker that closes with unread bytes resets the connection: the few answers that come through bring on nearly nothing,
// so it must not take one connection for each few of those that were under way.
Test(outbox, takes_few_connections_where_answers_are_lost_among_many) {
    inflight = broker.window = MANY;
    begin_again();
    broker.endless = loses_answers = true;
    broker.window = MANY;
    kept_answers = 2;
    for (int i = 1; i <= MANY; i++)
        put_report(i == MANY - 4 ? "P" : i < MANY - 4 ? "1" : "2");
    int connections = serve_all();
    cr_expect_eq(set_aside, 1);
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_leq(connections, 8, "%d connections", connections);
    for (int i = 1; i <= MANY; i++) // the next one is looked for at once
        put_report(i == MANY - 4 ? "P" : "3");
    connections = serve_all();
    cr_expect_eq(set_aside, 2);
    cr_expect_leq(connections, 7, "%d connections the second time", connections);
}

// Twice it may have been any of those that were under way; then it is alone.
static void expect_closes(enum mqtt_end end, unsigned count) {
    broker.endless = true;
    closing = end;
    closings = 0;
    put_report("1");
    put_report("P1");
    put_report("2");
    serve_all();
    cr_expect_str_eq(delivered, "1 2");
    cr_expect_eq(closings, count, "it closed the connection %u times", closings);
}

Test(outbox, needs_three_times_alone_when_the_broker_closes_and_five_when_the_network_may_have) {
    expect_closes(MQTT_ENDED_BY_BROKER, 2 + 3);
    begin_again(); // it does not know any more that the broker closes at messages
    expect_closes(MQTT_ENDED_BY_NETWORK, 2 + 5);
    cr_expect_eq(set_aside, 2);
}

static bool is_later(size_t time) {
    return uv_now(&loop) >= time;
}

// A gateway that stood still would blame what it writes then.
Test(outbox, tries_no_suspect_on_a_connection_that_has_ended) {
    put_report("P");
    for (size_t i = 1; i <= 3; i++) {
        go_up();
        run_until(were_handed, i);
        close_on_us();
    }
    broker.has_ended = true;
    go_up();
    run_until(is_later, (size_t)uv_now(&loop) + 2000);
    cr_expect_eq(broker.count, 3);
    broker.has_ended = false;
    run_until(were_handed, 4);
}

// It is said anew on each connection, and dropped at the end of the first ones.
Test(outbox, finds_a_marker_at_which_the_broker_closes) {
    for (unsigned connections = 1; closings == connections - 1; connections++) {
        cr_assert(connections < 30, "the broker closes the connection for ever");
        put_report("1");
        put_to("t/state/gw/instances/me/queue", "P");
        handed_before = broker.count;
        go_up();
        is_handed_anything();
        serve(handed_before + 1);
        if (broker.up)
            go_down();
    }
}

// Nothing tells whether the broker takes any report until it has taken another one.
Test(outbox, keeps_what_is_alone_until_another_is_taken) {
    broker.endless = true;
    put_report("1");
    put_report("P1");
    serve_all();
    cr_expect_eq(set_aside, 0);
    cr_expect_eq(outbox_count(outbox), 1);
    put_report("2");
    serve_all();
    cr_expect_str_eq(delivered, "2");
    cr_expect_eq(set_aside, 1);
    cr_expect_eq(outbox_count(outbox), 0);
}

Test(outbox, sets_nothing_aside_because_a_broker_was_killed_twice) {
    put_report("1");
    put_report("2");
    for (int i = 0; i < 2; i++) {
        go_up();
        close_on_us();
    }
    go_up();
    answer((int)broker.count, MQTT_TAKEN);
    answer((int)broker.count, MQTT_TAKEN);
    cr_expect_eq(set_aside, 0);
    cr_expect_eq(outbox_count(outbox), 0);
}

// One that is blamed goes alone.
Test(outbox, blames_no_message_for_what_we_break_ourselves) {
    put_report("1");
    put_report("2");
    for (int i = 0; i < 20; i++) {
        go_up();
        go_down();
    }
    broker.count = 0;
    go_up();
    expect_handed("1 2");
    cr_expect_eq(set_aside, 0);
}

static struct mqtt_publish result_to(const char *topic, const char *text) {
    return (struct mqtt_publish){.topic = topic, .payload = text, .length = strlen(text), .qos = 1};
}

Test(outbox, lets_a_result_cost_no_report) {
    for (int i = 0; i < 60; i++) {
        struct mqtt_publish result = result_to("a/topic/of/theirs", "P");
        outbox_put_result(outbox, &result);
    }
    put_report("1");
    put_report("2");
    int connections = serve_all();
    cr_expect_str_eq(delivered, "1 2");
    cr_expect_eq(set_aside, 60);
    cr_expect_leq(connections, 6, "%d connections for 60 results to one topic", connections);
}

Test(outbox, sends_results_last_and_one_at_a_time) {
    struct mqtt_publish one = result_to("a", "r1"), two = result_to("b", "r2");
    outbox_put_result(outbox, &one);
    outbox_put_result(outbox, &two);
    put_report("1");
    go_up();
    expect_handed("1 r1");
    answer(2, MQTT_TAKEN);
    expect_handed("1 r1 r2");
}

Test(outbox, sends_no_result_while_reports_wait) {
    struct mqtt_publish one = result_to("a", "r1");
    outbox_put_result(outbox, &one);
    put_all(WINDOW + 2);
    go_up();
    expect_handed("1 2 3 4");
}

Test(outbox, says_the_last_value_first) {
    struct mqtt_publish one = result_to("state", "s1"), two = result_to("state", "s2"),
                        three = result_to("state", "s3");
    put_report("1");
    outbox_say(outbox, &one); // nobody is there
    outbox_say(outbox, &two);
    go_up();
    expect_handed("1 s2");
    outbox_say(outbox, &one);
    outbox_say(outbox, &three);
    expect_handed("1 s2"); // two values of a topic are never under way at once
    answer(2, MQTT_TAKEN);
    expect_handed("1 s2 s3");
}

// A broker that closes the connection at what it refuses, and says so first.
Test(outbox, sends_reports_before_a_value_that_the_broker_refuses) {
    struct mqtt_publish value = result_to("state", "s"), other = result_to("other", "o");
    outbox_say(outbox, &value);
    go_up();
    answer(1, MQTT_NEVER_TAKEN);
    close_on_us();
    outbox_say(outbox, &value);
    outbox_say(outbox, &other);
    put_report("1");
    go_up();
    expect_handed("s 1 o");
}

Test(outbox, keeps_all_when_the_broker_closes_at_every_report) {
    broker.endless = true;
    for (int i = 0; i < 40; i++)
        put_report("1");
    for (int i = 0; i < 200; i++) {
        go_up();
        close_on_us();
    }
    cr_expect_leq(set_aside, 10, "%d were set aside", set_aside);
    cr_expect_eq(outbox_count(outbox), (size_t)(40 - set_aside));
    broker.count = 0;
    int connections = serve_all(); // it has recovered
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_leq(connections, 2);
}

Test(outbox, passes_over_as_many_as_one_device_sends_when_another_waits) {
    broker.endless = true;
    for (int i = 0; i < 14; i++)
        put_to("t/message/gw/devices/1", "P");
    for (int i = 0; i < 3; i++)
        put_to("t/message/gw/devices/2", "1");
    serve_all();
    cr_expect_str_eq(delivered, "1 1 1");
    cr_expect_eq(set_aside, 14);
}

Test(outbox, forbids_no_other_device_what_it_forbids_one) {
    broker.endless = true;
    for (int i = 0; i < 20; i++) {
        broker.count = 0;
        put_to("t/message/gw/devices/1", "P");
        put_to("t/message/gw/channels/1/1", "c");
        put_to("t/message/gw/devices/2", "d");
        serve_all();
        cr_assert_str_eq(delivered, "c d", "round %d: '%s'", i, delivered);
    }
    cr_expect_eq(set_aside, 20);
}

Test(outbox, tells_at_once_of_what_was_refused_while_it_was_put) {
    struct wait wait;
    go_up();
    uint64_t number =
        outbox_put(outbox, &(struct mqtt_publish){.topic = "", .payload = "x", .length = 1, .qos = 1});
    wait_for(&wait, number);
    cr_expect(wait.told == 1 && !wait.safe, "nobody has it");
}

Test(outbox, sends_a_result_again_after_a_pause_only) {
    struct mqtt_publish result = result_to("a", "r");
    outbox_put_result(outbox, &result);
    go_up();
    answer(1, MQTT_TAKEN_LATER);
    outbox_link_ready(outbox);
    outbox_link_ready(outbox);
    expect_handed("r");
    run_until(were_handed, 2);
    expect_handed("r r");
}

// --- a network that cuts connections ---

// Cuts after so many milliseconds; what comes later than latency after it was written is answered before.
static void live_for(uint64_t lifetime, uint64_t latency) {
    static uint64_t written[1000];
    size_t known = broker.count, next = known + 1;
    go_up();
    uint64_t end = uv_now(&loop) + lifetime;
    while (uv_now(&loop) < end) {
        for (; known < broker.count; known++)
            written[(known + 1) % 1000] = uv_now(&loop);
        if (next <= known && uv_now(&loop) - written[next % 1000] >= latency)
            answer((int)next++, MQTT_TAKEN);
        calm_clock_step(&loop);
        uv_update_time(&loop);
    }
    close_on_us();
}

struct network {
    unsigned shortest, longest; // milliseconds that a connection lives
    unsigned latency;           // milliseconds until a message is answered
};
static const struct network networks[] = {
    {0, 20, 1000},    // as good as no connection
    {250, 250, 300},  // always after the same time, just before the answer
    {0, 700, 300},    // some get through
    {400, 1100, 600}, // after a value that waits
    {100, 300, 1},    // all get through
};
#define NETWORKS (sizeof networks / sizeof networks[0])

static void suffer(const struct network *network, uint64_t milliseconds) {
    unsigned range = network->longest - network->shortest + 1;
    uv_update_time(&loop);
    for (uint64_t end = uv_now(&loop) + milliseconds; uv_now(&loop) < end;)
        live_for(network->shortest + (unsigned)rand() % range, network->latency);
}

Test(outbox, sets_nothing_aside_in_a_network_that_cuts, .timeout = 120) {
    broker.endless = true;
    for (size_t i = 0; i < NETWORKS; i++) {
        for (int j = 0; j < 40; j++)
            put_report("1");
        suffer(&networks[i], 8000);
        cr_expect_eq(set_aside, 0, "%d were set aside in network %zu", set_aside, i);
        set_aside = 0;
    }
    size_t left = outbox_count(outbox);
    cr_expect_lt(left, 40 * NETWORKS, "none came through");
    broker.count = 0;
    serve_all(); // it is well again
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_eq(set_aside, 0);
}

// --- results ---

static void count_result(void *context, uint64_t number, const struct mqtt_publish *publish) {
    ++*(int *)context;
}

static bool is_result_stored(size_t count) {
    int stored = 0;
    if (store_is_writing(store))
        return false; // a thread has the database
    store_each_result(store, count_result, &stored);
    return stored == (int)count;
}

Test(outbox, writes_a_result_that_waits_to_disk) {
    struct mqtt_publish result = result_to("a", "r");
    outbox_put_result(outbox, &result);
    run_until(is_result_stored, 1);
    go_up();
    expect_handed("r");
    answer(1, MQTT_TAKEN);
    run_until(is_result_stored, 0);
}

// Also where the topic looks like that of a report.
Test(outbox, sends_results_of_an_earlier_run_last) {
    struct mqtt_publish result = result_to("t/message/gw/devices/1", "r");
    outbox_put_result(outbox, &result);
    put_report("1");
    close_outbox();
    open_outbox();
    cr_assert_eq(outbox_count(outbox), 2);
    put_report("2");
    go_up();
    run_until(were_handed, 2);
    answer(1, MQTT_TAKEN);
    run_until(were_handed, 3);
    expect_handed("1 2 r");
    answer(3, MQTT_TAKEN_LATER);
    put_report("3");
    expect_handed("1 2 r 3");
    answer(2, MQTT_TAKEN);
    answer(4, MQTT_TAKEN);
    run_until(were_handed, 5);
    expect_handed("1 2 r 3 r");
    answer(5, MQTT_NEVER_TAKEN);
    cr_expect_eq(set_aside, 1);
    close_outbox();
    open_outbox();
    cr_expect_eq(outbox_count(outbox), 0);
}

static bool are_answered_until(size_t count) {
    static size_t last;
    if (broker.count > last && broker.texts[(broker.count - 1) % SENT_MAX][0] == 'x')
        answer((int)broker.count, MQTT_TAKEN);
    last = broker.count;
    put_report("x");
    struct timespec pause = {.tv_nsec = 10000000};
    nanosleep(&pause, NULL);
    for (size_t i = 0; i < broker.count; i++)
        if (broker.texts[i % SENT_MAX][0] == (char)count)
            return true;
    return false;
}

Test(outbox, passes_over_a_result_that_is_never_answered) {
    struct mqtt_publish one = result_to("a", "r"), two = result_to("b", "s");
    broker.endless = true;
    outbox_put_result(outbox, &one);
    outbox_put_result(outbox, &two);
    go_up();
    expect_handed("r");
    run_until(are_answered_until, 's');
    cr_expect_eq(set_aside, 1);
}

Test(outbox, passes_over_a_value_that_is_never_answered) {
    struct mqtt_publish one = result_to("state", "a"), two = result_to("state", "b");
    broker.endless = true;
    go_up();
    outbox_say(outbox, &one);
    outbox_say(outbox, &two);
    expect_handed("a");
    run_until(are_answered_until, 'b');
}

// --- a message that is never answered where one may be under way ---

static void serve_but(char swallowed) {
    for (size_t nth = handed_before + 1; nth <= broker.count; nth++)
        if (broker.texts[(nth - 1) % SENT_MAX][0] != swallowed)
            answer((int)nth, MQTT_TAKEN);
    handed_before = broker.count;
}

static bool is_swallow_found(size_t count) {
    if (broker.was_reset) {
        broker.was_reset = false;
        go_down();
        go_up();
    }
    serve_but('P');
    return outbox_count(outbox) == count;
}

Test(outbox, finds_what_is_never_answered_with_a_window_of_one, .timeout = 120) {
    broker.endless = true;
    broker.window = 1;
    put_report("P");
    put_report("1");
    put_report("2");
    go_up();
    for (int i = 0; i < 5; i++) { // each as long as run_until() waits, at most
        time_t end = time(NULL) + 12;
        while (outbox_count(outbox) > 0 && time(NULL) < end) {
            calm_clock_step(&loop);
            is_swallow_found(0);
        }
    }
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_eq(set_aside, 1);
}

// --- a message after which nothing is answered on its connection ---

static bool is_mute; // until the next connection

static void serve_until(char last) {
    for (size_t nth = handed_before + 1; nth <= broker.count; nth++) {
        is_mute = is_mute || broker.texts[(nth - 1) % SENT_MAX][0] == last;
        if (!is_mute)
            answer((int)nth, MQTT_TAKEN);
    }
    handed_before = broker.count;
}

static bool is_mute_maker_found(size_t count) {
    if (broker.was_reset) {
        broker.was_reset = is_mute = false;
        go_down();
        handed_before = broker.count;
        go_up();
    }
    serve_until('P');
    return outbox_count(outbox) == count;
}

// RabbitMQ does so at a message above its max_message_size: the connection stays, and PINGREQ is answered.
Test(outbox, finds_what_makes_the_broker_mute, .timeout = 120) {
    time_t end = time(NULL) + 90;
    broker.endless = true;
    for (const char *const *text = (const char *const[]){"1", "P", "2", "3", NULL}; *text != NULL; text++)
        put_report(*text);
    go_up();
    while (!is_mute_maker_found(0) && time(NULL) < end)
        calm_clock_step(&loop);
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_eq(set_aside, 1);
    is_mute = false;
}

// One device, whose reports go to two topics each, and the values of the last that was taken.
static void put_whole_report(const char *text) {
    put_to("t/message/gw/channels/1/a", text);
    put_to("t/message/gw/devices/1", text);
    if (*text == 'P')
        put_retained("t/state/gw/devices/1/telemetry/wifi.access.points", text);
}

Test(outbox, finds_what_makes_the_broker_mute_among_reports_of_one_device, .timeout = 120) {
    time_t end = time(NULL) + 90;
    broker.endless = true;
    broker.window = 20;
    go_up();
    for (const char *const *text = (const char *const[]){"1", "2", "3", "4", "P", "5", "6", "7", "8", NULL};
         *text != NULL; text++)
        put_whole_report(*text);
    uint64_t began = uv_now(&loop);
    while (!is_mute_maker_found(0) && time(NULL) < end)
        calm_clock_step(&loop);
    cr_expect_leq(uv_now(&loop) - began, 80000, "%llu ms", (unsigned long long)(uv_now(&loop) - began));
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_eq(set_aside, 2);
    is_mute = false;
}

// --- a broker that answers late ---

static unsigned resets; // of the connection, by us

// Milliseconds after which it answers the nth message that it was handed; UINT_MAX: never.
typedef unsigned lateness_fn(size_t nth);

// Answers what is due. What was under way when the connection was ended has no answer.
static void serve_late(lateness_fn *lateness) {
    static uint64_t handed[SENT_MAX * 10]; // by uv_now(); 0: answered, or lost
    static size_t known;
    for (; known < broker.count; known++)
        handed[known] = uv_now(&loop);
    for (size_t i = 0; i < known; i++) {
        if (handed[i] == 0 || uv_now(&loop) - handed[i] < lateness(i + 1))
            continue;
        handed[i] = 0;
        answer((int)i + 1, MQTT_TAKEN);
    }
    if (!broker.was_reset)
        return;
    memset(handed, 0, sizeof handed);
    broker.was_reset = false;
    resets++;
    go_down();
    go_up();
}

// How many wait after so many seconds.
static size_t suffer_late(lateness_fn *lateness, unsigned seconds) {
    uint64_t end = uv_now(&loop) + 1000 * (uint64_t)seconds;
    while (outbox_count(outbox) > 0 && uv_now(&loop) < end) {
        serve_late(lateness);
        calm_clock_step(&loop);
    }
    return outbox_count(outbox);
}

static unsigned seven_seconds_after_a_stall(size_t nth) {
    return nth <= WINDOW ? UINT_MAX : 7000;
}

static unsigned two_to_nine_seconds_after_a_stall(size_t nth) {
    static const unsigned lateness[] = {7, 6, 2, 9, 8, 3, 9, 7, 2, 5, 8, 9, 4};
    return nth <= WINDOW ? UINT_MAX : 1000 * lateness[nth % 13];
}

static unsigned two_to_fourteen_seconds(size_t nth) {
    static const unsigned lateness[] = {14, 2, 13, 2, 12, 14, 3, 2, 14, 13, 2};
    return 1000 * lateness[nth % 11];
}

static unsigned twelve_seconds(size_t nth) {
    return 12000;
}

static void begin_late(void) {
    calm_clock_hurry(50);
    broker.endless = true;
    for (int i = 0; i < 2 * WINDOW; i++)
        put_report("1");
    go_up();
}

// A wait that is shorter than what the broker needs would end one connection after the other.
Test(outbox, catches_up_with_a_broker_that_answers_late_after_a_stall, .timeout = 180) {
    begin_late();
    cr_expect_eq(suffer_late(seven_seconds_after_a_stall, 100), 0);
    cr_expect_leq(resets, 3, "%u connections were ended", resets);
    cr_expect_eq(set_aside, 0);
}

Test(outbox, calls_nothing_never_acknowledged_where_answers_come_late, .timeout = 180) {
    begin_late();
    cr_expect_eq(suffer_late(two_to_nine_seconds_after_a_stall, 150), 0);
    cr_expect_eq(set_aside, 0);
    broker.endless = true;
    for (int i = 0; i < 10 * WINDOW; i++)
        put_report("1");
    cr_expect_eq(suffer_late(two_to_fourteen_seconds, 300), 0);
    cr_expect_eq(set_aside, 0);
}

// The wait that a slow hour needed is no measure for what comes after it.
Test(outbox, forgets_how_late_a_broker_was_once_it_answers_quickly, .timeout = 180) {
    begin_late();
    suffer_late(seven_seconds_after_a_stall, 100);
    handed_before = broker.count;
    for (int i = 0; i < 10; i++)
        put_report("1");
    run_until(is_mute_maker_found, 0); // all are answered at once
    for (const char *const *text = (const char *const[]){"P", "1", "2", NULL}; *text != NULL; text++)
        put_report(*text);
    uint64_t end = uv_now(&loop) + 40000;
    while (!is_mute_maker_found(0) && uv_now(&loop) < end)
        calm_clock_step(&loop);
    cr_expect_eq(set_aside, 1);
    is_mute = false;
}

// The same for a result, which goes out beside the others.
Test(outbox, calls_no_result_never_acknowledged_where_answers_come_late, .timeout = 180) {
    struct mqtt_publish result = result_to("a", "r");
    begin_late();
    outbox_put_result(outbox, &result);
    cr_expect_eq(suffer_late(twelve_seconds, 100), 0);
    cr_expect_eq(set_aside, 0);
}

// --- a broker that refuses one message for now, again and again ---

#define TELEMETRY "t/state/gw/devices/1/telemetry/"

// Answers what was handed over; "P…" is refused for now.
static void serve_quota(void) {
    for (size_t nth = handed_before + 1; nth <= broker.count; nth++) {
        bool refused = broker.texts[(nth - 1) % SENT_MAX][0] == 'P';
        if (!refused)
            note_delivered(nth);
        answer((int)nth, refused ? MQTT_TAKEN_LATER : MQTT_TAKEN);
    }
    handed_before = broker.count;
}

static void serve_quota_for(unsigned milliseconds) {
    uint64_t end = uv_now(&loop) + milliseconds;
    while (uv_now(&loop) < end) {
        serve_quota();
        calm_clock_step(&loop);
    }
}

static void begin_quota(void) {
    calm_clock_hurry(50);
    broker.endless = true;
    handed_before = 0;
    delivered[0] = '\0';
    go_up();
}

static void expect_delivered_last(const char *expected) {
    char last[16];
    size_t n = broker.count;
    snprintf(last, sizeof last, "%s %s", broker.texts[(n - 2) % SENT_MAX], broker.texts[(n - 1) % SENT_MAX]);
    cr_expect_str_eq(last, expected, "'%s' were the last", last);
}

// What follows to its topic waits with it.
Test(outbox, passes_over_a_report_that_is_refused_for_now_again_and_again) {
    begin_quota();
    put_report("P");
    put_report("a");
    for (int i = 0; i < 3 * WINDOW; i++)
        put_to("t/message/gw/devices/2", "2");
    put_report("b");
    serve_quota_for(5000);
    cr_expect_str_eq(delivered, "a 2 2 2 2 2 2 2 2 2 2 2 2", "'%s'",
                     delivered); // a was under way together with it
    cr_expect_eq(outbox_count(outbox), 2);
    cr_expect_eq(set_aside, 0);
    run_until(were_handed, broker.count + 1);
    serve_but('-'); // and now it is taken
    expect_delivered_last("P b");
}

static size_t put_and_serve(unsigned seconds, size_t left) {
    uint64_t end = uv_now(&loop) + seconds * UINT64_C(1000);
    for (unsigned i = 0; uv_now(&loop) < end && outbox_count(outbox) > left; i++) {
        if (i % 10 == 0)
            put_to("t/message/gw/devices/2", "2");
        serve_quota();
        delivered[0] = '\0';
        calm_clock_step(&loop);
    }
    return outbox_count(outbox);
}

// It is tried for some minutes, more and more rarely; then those behind it have their turn.
Test(outbox, sets_aside_what_is_refused_for_now_while_others_are_taken, .timeout = 180) {
    begin_quota();
    put_report("P");
    put_report("P");
    put_and_serve(20, 0);
    cr_expect_eq(set_aside, 0, "too soon");
    cr_expect_leq(put_and_serve(280, 0), 1);
    cr_expect_eq(set_aside, 2);
}

// A quota of ours passes: nothing is lost, and not much is sent meanwhile.
Test(outbox, keeps_all_while_everything_is_refused_for_now, .timeout = 180) {
    begin_quota();
    for (int i = 0; i < 40; i++) {
        char topic[32];
        sprintf(topic, "t/message/gw/devices/%d", i);
        put_to(topic, "P");
    }
    serve_quota_for(60000);
    cr_expect_eq(set_aside, 0);
    cr_expect_eq(outbox_count(outbox), 40);
    cr_expect_leq(broker.count, 2 * 60 + 2 * WINDOW, "%zu were handed over in a minute", broker.count);
    handed_before = broker.count; // of what is under way nothing is left
    for (uint64_t end = uv_now(&loop) + 60000; outbox_count(outbox) > 0 && uv_now(&loop) < end;) {
        serve_but('-');
        calm_clock_step(&loop);
    }
    cr_expect_eq(outbox_count(outbox), 0);
}

// Telemetry that is refused, of however many fields, holds up no report and piles up nowhere.
Test(outbox, passes_over_state_that_is_refused_for_now) {
    begin_quota();
    for (int i = 0; i < 10 * WINDOW; i++) {
        char topic[64];
        sprintf(topic, TELEMETRY "%d", i % (5 * WINDOW));
        outbox_put(outbox,
                   &(struct mqtt_publish){
                       .topic = topic, .payload = "P", .length = 1, .qos = 1, .retain = MQTT_RETAINED});
        if (i % 8 == 7)
            put_report("r");
    }
    serve_quota_for(1500);
    cr_expect_str_eq(delivered, "r r r r r");
    cr_expect_eq(outbox_count(outbox), 5 * WINDOW, "%zu, of each topic the last value waits",
                 outbox_count(outbox));
    put_report("s");
    serve_quota_for(1500);
    cr_expect_str_eq(delivered, "r r r r r s");
}

// Once half the disk is used, what waits for a topic whose tries were all in vain gives way. Before that nothing does.
Test(outbox, keeps_half_the_disk_for_others, .timeout = 180) {
    begin_quota();
    put_report("P");
    serve_quota();
    for (int i = 1; i < 7000; i++)
        put_report("P");
    put_and_serve(60, 0);
    cr_expect_eq(set_aside, 0, "it has not had all its tries");
    for (uint64_t end = uv_now(&loop) + 300000; set_aside < 950 && uv_now(&loop) < end;)
        put_and_serve(1, 0); // others are taken meanwhile
    serve_quota();
    cr_expect_geq(set_aside, 950);
    put_and_serve(20, 0);
    cr_expect_leq(set_aside, 1100, "the rest stays: %d were set aside", set_aside);
    cr_expect_eq(outbox_count(outbox) + (size_t)set_aside, 7000, "none is lost");
}

// Among suspects too there is a pause between two tries: ten of them take no ten round trips.
Test(outbox, retries_a_refused_suspect_after_a_pause) {
    put_report("1");
    put_to("t/message/gw/devices/2", "2");
    for (int i = 0; i < 2; i++) {
        go_up();
        close_on_us();
    }
    handed_before = broker.count;
    go_up();
    for (uint64_t end = uv_now(&loop) + 200; uv_now(&loop) < end; calm_clock_step(&loop))
        for (; handed_before < broker.count; handed_before++)
            answer((int)handed_before + 1, MQTT_NOT_TAKEN);
    expect_handed("1 2 1 2 1 2");
    run_until(were_handed, 8);
    cr_expect_eq(set_aside, 0);
}

// Of state too only so much waits in memory: reports on disk behind it go out.
Test(outbox, reads_reports_that_stand_behind_refused_state, .timeout = 180) {
    char topic[64];
    for (int i = 0; i < 8000; i++) {
        sprintf(topic, TELEMETRY "%d", i);
        put_retained(topic, "P");
    }
    for (int i = 0; i < 3; i++)
        put_report("r");
    begin_again();
    begin_quota();
    for (uint64_t end = uv_now(&loop) + 20000; strlen(delivered) < 5 && uv_now(&loop) < end;)
        serve_quota_for(100);
    cr_expect_str_eq(delivered, "r r r");
    put_to(TELEMETRY "7999", "Q"); // and a value replaces what stands on disk
    for (uint64_t end = uv_now(&loop) + 60000; outbox_count(outbox) > 0 && uv_now(&loop) < end;
         calm_clock_step(&loop))
        serve_but('-');
    cr_expect_eq(outbox_count(outbox), 0);
}

// What the broker has taken is deleted, also behind one that waits.
Test(outbox, deletes_what_was_taken_behind_one_that_waits) {
    put_report("P");
    for (int i = 0; i < 3; i++)
        put_to("t/message/gw/devices/2", "2");
    begin_again();
    begin_quota();
    serve_quota_for(2000);
    cr_expect_str_eq(delivered, "2 2 2");
    cr_expect_eq(outbox_count(outbox), 1);
    begin_again();
    cr_expect_eq(outbox_count(outbox), 1, "%zu stood on disk", outbox_count(outbox));
}

// --- state that is never answered ---

Test(outbox, finds_state_that_is_never_answered_before_it_holds_up_reports_for_long, .timeout = 180) {
    calm_clock_hurry(50);
    broker.endless = true;
    go_up();
    for (int i = 0; i < 5 * WINDOW; i++) {
        char topic[64];
        sprintf(topic, TELEMETRY "%d", i);
        outbox_put(outbox,
                   &(struct mqtt_publish){
                       .topic = topic, .payload = "P", .length = 1, .qos = 1, .retain = MQTT_RETAINED});
    }
    for (int i = 0; i < WINDOW; i++)
        put_report("r");
    for (uint64_t end = uv_now(&loop) + 60000; outbox_taken(outbox) < WINDOW && uv_now(&loop) < end;) {
        is_swallow_found(0);
        calm_clock_step(&loop);
    }
    cr_expect_eq(outbox_taken(outbox), WINDOW);
}

// --- retained messages ---

#define STATE "t/state/gw/devices/1/connected"
#define ENTRY "t/state/gw/devices/1/commands-queue/7"

Test(outbox, has_one_retained_message_to_a_topic_under_way) {
    go_up();
    put_retained(STATE, "a");
    put_retained(STATE, "b");
    put_retained(ENTRY, "e");
    put_retained(STATE, "c");
    put_retained(ENTRY, "f");
    put_report("1");
    put_report("2");
    expect_handed("a e 1 2"); // what waits for its topic holds up nothing
    answer(3, MQTT_TAKEN);
    expect_handed("a e 1 2");
    answer(1, MQTT_TAKEN);
    expect_handed("a e 1 2 c"); // of state only the last value
    answer(2, MQTT_TAKEN);
    expect_handed("a e 1 2 c f"); // of commands all
    answer(4, MQTT_TAKEN);
    answer(5, MQTT_TAKEN);
    answer(6, MQTT_TAKEN);
    cr_expect_eq(outbox_count(outbox), 0);
}

Test(outbox, has_one_retained_message_to_a_topic_under_way_from_the_store) {
    put_retained(STATE, "a");
    put_retained(ENTRY, "e");
    put_retained(STATE, "b");
    put_retained(ENTRY, "f");
    close_outbox();
    open_outbox();
    go_up();
    run_until(were_handed, 2);
    expect_handed("a e");
    answer(1, MQTT_NEVER_TAKEN); // that is an answer too
    expect_handed("a e b");
    go_down();
    go_up();
    expect_handed("a e b e b");
    answer(4, MQTT_TAKEN);
    expect_handed("a e b e b f");
    answer(5, MQTT_TAKEN);
    answer(6, MQTT_TAKEN);
    cr_expect_eq(outbox_count(outbox), 0);
}

// What waited for the topic passes its turn on with its place.
Test(outbox, sends_what_replaces_a_value_whose_turn_it_was) {
    put_retained(STATE, "a");
    put_retained(STATE, "b");
    put_report("1");
    put_retained(STATE, "c");
    broker.answered_within = 1;
    go_up();
    outbox_link_ready(outbox);
    expect_handed("a 1 c");
}

// --- what waits while others go out in its place ---

// Puts one after another that is taken, and closes every connection at it until others go out in its place.
static void accuse_report(void) {
    broker.endless = true;
    put_report("0");
    put_report("P");
    serve_all();
    cr_assert_eq(outbox_count(outbox), 1);
    handed_before = broker.count;
    go_up();
}

static bool flows(size_t number) {
    serve_but('P');
    return outbox_has_taken(outbox, number) && outbox_keeps_up(outbox);
}

static bool is_rid_of_earlier(size_t value) {
    serve_but('P');
    return outbox_is_rid_of_earlier(outbox) && outbox_keeps_up(outbox);
}

Test(outbox, lets_an_accused_report_hold_up_no_state, .timeout = 180) {
    accuse_report();
    run_until(is_safe, 2); // it waits on disk
    run_until(flows, (size_t)put_retained(STATE, "s"));
    cr_expect_eq(outbox_count(outbox), 1);
    close_outbox();
    open_outbox();
    cr_assert(!outbox_is_rid_of_earlier(outbox));
    broker.endless = true;
    serve_all();
    cr_assert_eq(outbox_count(outbox), 1);
    handed_before = broker.count;
    go_up();
    run_until(is_rid_of_earlier, 0);
    cr_expect_eq(set_aside, 0);
}

static void take_next(const char *expected) {
    size_t nth = ++handed_before;
    run_until(were_handed, nth);
    cr_expect_str_eq(broker.texts[nth - 1], expected);
    answer((int)nth, MQTT_TAKEN);
}

// Otherwise the older value would be the last one that the broker gets.
Test(outbox, overtakes_no_retained_message_to_the_same_topic, .timeout = 180) {
    put_report("0");
    put_retained(STATE, "P");
    put_retained(STATE, "b");
    serve_all();
    cr_expect_str_eq(delivered, "0", "delivered '%s'", delivered);
    handed_before = broker.count;
    go_up(); // and now it takes everything
    put_retained(ENTRY, "e");
    take_next("e");
    take_next("P");
    take_next("b");
    cr_expect_eq(outbox_count(outbox), 0);
}

// What was taken before the first answer was left out says nothing of the time after it.
Test(outbox, blames_nothing_for_an_answer_that_was_left_out_before, .timeout = 180) {
    broker.endless = true;
    go_up();
    put_report("P");
    put_report("1");
    answer(2, MQTT_TAKEN);
    run_until(was_reset, 0);
    go_down();
    handed_before = broker.count;
    serve_all();
    cr_expect_eq(set_aside, 0);
    cr_expect_eq(outbox_count(outbox), 1);
}

// --- a disk that takes nothing ---

static bool broker_keeps_up(size_t value) {
    return outbox_keeps_up(outbox);
}

static bool has_passed(size_t until) {
    return uv_now(&loop) >= until;
}

// A pipe takes what is logged while no file may grow.
static int catch_log(void) {
    int ends[2];
    cr_assert(pipe2(ends, O_NONBLOCK) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    return ends[0];
}

static size_t count_lines(int log, const char *text) {
    static char lines[20000];
    size_t count = 0;
    ssize_t length = read(log, lines, sizeof lines - 1);
    lines[length > 0 ? length : 0] = '\0';
    for (const char *at = lines; (at = strstr(at, text)) != NULL; at++)
        count++;
    return count;
}

// While the broker is mute too it does not keep up, not for a moment; once it answers it does, although the
// disk is still full.
Test(outbox, does_not_keep_up_with_a_mute_broker_and_a_full_disk, .timeout = 180) {
    int log = catch_log();
    let_files_grow(false);
    go_up();
    put_all(WINDOW + 4);
    cr_assert(outbox_keeps_up(outbox));
    while (outbox_keeps_up(outbox)) // for two seconds
        calm_clock_step(&loop);
    run_until(has_passed, (size_t)uv_now(&loop) + 2500); // some tries of the store, and ticks
    cr_expect_eq(count_lines(log, "keeping up again"), 0);
    for (int i = 1; i <= WINDOW + 4; i++)
        answer(i, MQTT_TAKEN);
    run_until(broker_keeps_up, 0);
    cr_expect_eq(count_lines(log, "keeping up again"), 1);
    let_files_grow(true);
}

// One device that is refused is no reason to write all others' messages to disk, again and again.
Test(outbox, does_not_spill_because_of_one_that_is_refused, .timeout = 180) {
    int log = catch_log();
    begin_quota();
    for (int i = 0; i < 100; i++) {
        put_report("P");
        put_to("t/message/gw/devices/2", "2");
        serve_quota_for(200);
        cr_assert(outbox_keeps_up(outbox));
        delivered[0] = '\0';
    }
    cr_expect_eq(count_lines(log, "writing them to disk"), 0);
    cr_expect_leq(outbox_unsafe_count(outbox), 10);
}

// While we do not listen it is not the broker that says nothing.
Test(outbox, blames_nothing_while_nothing_is_read, .timeout = 180) {
    calm_clock_hurry(50);
    go_up();
    put_report("1");
    put_to("t/message/gw/devices/2", "2");
    answer(2, MQTT_TAKEN); // so that the first counts as passed over
    broker.is_held = true;
    run_until(has_passed, (size_t)uv_now(&loop) + 40000);
    cr_expect(!broker.was_reset, "while it is held");
    broker.is_held = false;
    run_until(has_passed, (size_t)uv_now(&loop) + 5000);
    cr_expect(!broker.was_reset, "as soon as it is not");
    run_until(was_reset, 0);
}

// Somebody else has deleted them, or the file was damaged.
Test(outbox, says_what_is_missing_on_disk, .timeout = 180) {
    int log = catch_log();
    put_all(3);
    run_until(is_safe, 3);
    put_all(3); // they are on disk alone
    run_until(is_safe, 6);
    store_delete_messages(store, 1, 5);
    put_all(1);
    go_up();
    for (int i = 1; i <= 5; i++) {
        run_until(were_handed, (size_t)i);
        answer(i, MQTT_TAKEN);
    }
    run_until(broker_keeps_up, 0);
    cr_expect_eq(outbox_count(outbox), 0);
    cr_expect_eq(count_lines(log, "2 messages that were written to disk are not in the store any more"), 1);
}

// --- who waits for a message ---

static size_t left_when_told;

static void put_when_told(struct outbox_waiter *waiter, bool safe) {
    left_when_told = outbox_count(outbox);
    put_report("2");
}

// All of them before anybody waits for the first.
Test(outbox, tells_of_each_of_many_that_were_refused_while_they_were_put) {
    static struct wait waits[500];
    go_up();
    for (size_t i = 0; i < 500; i++)
        outbox_put(outbox, &(struct mqtt_publish){.topic = ""});
    for (size_t i = 0; i < 500; i++) {
        wait_for(&waits[i], i + 1);
        cr_assert(waits[i].told == 1 && !waits[i].safe, "%zu counts as safe", i);
    }
    struct wait wait;
    wait_for(&wait, put("1", 1));
    answer(1, MQTT_TAKEN);
    cr_assert(wait.told == 1 && wait.safe);
}

Test(outbox, is_done_with_what_is_refused_when_it_tells) {
    struct outbox_waiter waiter = {.first = 1, .last = 1, .done = put_when_told};
    left_when_told = 7;
    go_up();
    put_report("1");
    outbox_when_safe(outbox, &waiter);
    answer(1, MQTT_NEVER_TAKEN);
    cr_expect_eq(left_when_told, 0, "%zu were left", left_when_told);
    expect_handed("1 2");
}

// --- the disk ---

// After a kill what was deleted too early would be lost, although its device was told that it is safe.
Test(outbox, deletes_from_disk_only_what_was_taken) {
    put_all(4);
    begin_again();
    go_up();
    run_until(were_handed, 4);
    answer(1, MQTT_TAKEN);
    begin_again();
    go_up();
    run_until(were_handed, 3);
    expect_handed("2 3 4");
}

// What an earlier run has left comes first.
Test(outbox, does_not_keep_up_while_messages_are_on_disk) {
    put_all(1);
    begin_again();
    broker.up = true;
    cr_assert(!outbox_keeps_up(outbox));
    go_up();
    run_until(were_handed, 1);
    answer(1, MQTT_TAKEN);
    run_until(broker_keeps_up, 0);
}

// A device may be told only then.
Test(outbox, is_safe_once_it_is_written) {
    put_all(1);
    for (int i = 0; i <= 10000; i++) // more than memory holds
        put("2", 1);
    cr_assert(!outbox_is_safe(outbox, 1));
    run_until(is_safe, 10002);
}

// A broker that has too much to do is not asked at once.
Test(outbox, sends_again_after_a_tick_only) {
    put_all(1);
    go_up();
    answer(1, MQTT_TAKEN_LATER);
    cr_assert_eq(broker.count, 1);
    run_until(were_handed, 2);
}
