// The outbox and a broker that refuses a share of all topics for now ("quota exceeded"), or everything for a while: what
// it takes must flow as if the rest were not there.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "tests/calm_clock.h"
#include "tests/temporary.h"

#define TOPICS    200
#define UNDER_WAY 1000 // publishes that have no answer yet, at most
#define PERIOD    2000 // milliseconds in which each topic gets a message
#define SOON      3000 // milliseconds within which what can go has gone, also on a machine that stands still
#define BYTES     (64 << 20)
#define DEADLINE  15 // seconds, for the disk
#define HURRY     50 // times as fast as the system's clock

// Whether the nth publish since the start, to a topic, is taken.
typedef enum mqtt_answer rule_fn(int topic, size_t nth);

static struct {
    bool up;
    unsigned window;
    int at_once; // answers in a turn
    rule_fn *rule;
    int too_large;    // value that cannot be sent to topic 0; 0: none
    bool paced;       // by the link
    int paced_left;   // publishes that it takes now
    int closes_at;    // topic whose messages it closes the connection at; -1: none
    uint64_t back_at; // by uv_now(): when one that it has closed comes back
    size_t count;     // publishes since the start
    size_t answered;
    int topics[UNDER_WAY]; // of those
    int values[UNDER_WAY];
} broker;

static struct {
    unsigned put, tried, taken;
    int last; // value that was taken
} topics[TOPICS];
static unsigned out_of_order;                        // values that were taken after a later one
static enum outbox_intake worst_intake, last_intake; // that devices had

static char directory[TEMPORARY_MAX];
static uv_loop_t loop;
static struct store *store;
static struct outbox *outbox;
static int set_aside;

// --- the broker ---

static bool is_up(void *context) {
    return broker.up;
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    const char *level = strrchr(publish->topic, '/');
    char text[16] = "";
    cr_assert(broker.count - broker.answered < UNDER_WAY);
    if (broker.paced && broker.paced_left-- <= 0)
        return MQTT_NOT_NOW;
    memcpy(text, publish->payload, publish->length);
    if (atoi(level + 1) == 0 && broker.too_large != 0 && atoi(text) == broker.too_large)
        return MQTT_REFUSED;
    broker.topics[broker.count % UNDER_WAY] = atoi(level + 1);
    broker.values[broker.count % UNDER_WAY] = atoi(text);
    *mid = (int)++broker.count;
    return MQTT_SENT;
}

static unsigned window(void *context) {
    return broker.window;
}

static void reset(void *context, const char *why) {
    cr_assert(false, "the connection was reset: %s", why);
}

static const struct mqtt_carrier carrier = {
    .is_up = is_up, .publish = publish, .window = window, .reset = reset};

static void note_aside(void *context) {
    set_aside++;
}

static void note_intake(void *context, enum outbox_intake intake) {
    worst_intake = intake > worst_intake ? intake : worst_intake;
    last_intake = intake;
}

static void note_taken(int topic, int value) {
    topics[topic].taken++;
    out_of_order += value < topics[topic].last;
    if (value > topics[topic].last)
        topics[topic].last = value;
}

// It takes no notice of what was under way, and is back soon.
static void close_connection(void) {
    broker.up = false;
    broker.answered = broker.count;
    broker.back_at = uv_now(&loop) + 100;
    outbox_link_down(outbox, MQTT_ENDED_BY_BROKER);
}

static void come_back(void) {
    if (broker.up || uv_now(&loop) < broker.back_at)
        return;
    broker.up = true;
    outbox_link_up(outbox);
}

// Answers some of what it was handed, also of what goes out meanwhile.
static void serve(void) {
    come_back();
    for (int i = 0; i < broker.at_once && broker.answered < broker.count; i++) {
        int topic = broker.topics[broker.answered % UNDER_WAY];
        int value = broker.values[broker.answered % UNDER_WAY];
        enum mqtt_answer answer = broker.rule(topic, broker.answered);
        topics[topic].tried++;
        if (topic == broker.closes_at) {
            close_connection();
            return;
        }
        if (answer == MQTT_TAKEN)
            note_taken(topic, value);
        outbox_published(outbox, (int)++broker.answered, answer, "a reason");
        outbox_link_ready(outbox);
    }
}

// --- around it ---

static void set_up(void) {
    char path[96], *reason;
    calm_clock_start();
    calm_clock_hurry(50);
    make_temporary(directory, "shares");
    uv_loop_init(&loop);
    snprintf(path, sizeof path, "%s/store.db", directory);
    store = store_open(&loop, path, &reason);
    cr_assert(store != NULL, "%s", reason);
    broker.window = 20;
    broker.at_once = 20;
    broker.closes_at = -1;
    outbox =
        outbox_new(&loop, store, "t", 20, BYTES, &(struct outbox_handlers){NULL, note_intake, note_aside});
    outbox_set_carrier(outbox, &carrier);
    broker.up = true;
    outbox_link_up(outbox);
}

static void tear_down(void) {
    char command[96];
    outbox_stop(outbox);
    store_stop(store);
    uv_run(&loop, UV_RUN_DEFAULT);
    outbox_free(outbox);
    store_close(store);
    cr_assert(uv_loop_close(&loop) == 0);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert(system(command) == 0);
}

TestSuite(outbox_shares, .init = set_up, .fini = tear_down, .timeout = 180);

static const char *tree = "t/message/gw/devices/"; // in which messages are put
static enum mqtt_retain retain;
static bool background;

static void put(int topic) {
    char name[64], text[16];
    snprintf(name, sizeof name, "%s%d", tree, topic);
    snprintf(text, sizeof text, "%u", ++topics[topic].put);
    outbox_put(outbox, &(struct mqtt_publish){.topic = name,
                                              .payload = text,
                                              .length = strlen(text),
                                              .qos = 1,
                                              .retain = retain,
                                              .background = background});
}

static void serve_for(unsigned milliseconds) {
    for (uint64_t end = uv_now(&loop) + milliseconds; uv_now(&loop) < end;) {
        serve();
        calm_clock_step(&loop);
    }
}

// Each topic gets a message in each period, all of them in one go.
static void report_for(unsigned milliseconds) {
    for (unsigned passed = 0; passed < milliseconds; passed += PERIOD) {
        for (int topic = 0; topic < TOPICS; topic++)
            put(topic);
        serve_for(PERIOD);
    }
}

// Messages to topics from the first one on that the broker does not have.
static unsigned count_missing(int first) {
    unsigned missing = 0;
    for (int topic = first; topic < TOPICS; topic++)
        missing += topics[topic].put - topics[topic].taken;
    return missing;
}

static void wait_until_safe(void) {
    for (time_t end = time(NULL) + DEADLINE; outbox_unsafe_count(outbox) > 0 && time(NULL) < end;)
        serve_for(20);
    cr_expect_eq(outbox_unsafe_count(outbox), 0, "%zu are not on disk", outbox_unsafe_count(outbox));
}

static void expect_all_within(unsigned milliseconds, int first, const char *what) {
    for (uint64_t end = uv_now(&loop) + milliseconds; uv_now(&loop) < end && count_missing(first) > 0;)
        serve_for(20);
    cr_expect_eq(count_missing(first), 0, "%s: %u are missing", what, count_missing(first));
}

static unsigned most_tries(int end) {
    unsigned most = 0;
    for (int topic = 0; topic < end; topic++)
        most = topics[topic].tried > most ? topics[topic].tried : most;
    return most;
}

// --- a share of the topics ---

static int refused;              // topics, from the first on
static enum mqtt_answer refusal; // what the broker says of them

static enum mqtt_answer refuse_share(int topic, size_t nth) {
    return topic < refused ? refusal : MQTT_TAKEN;
}

static const struct share {
    int percent;
    enum mqtt_answer refusal;
    unsigned window;
    unsigned tries; // of one topic in ten seconds, at most
} shares[] = {
    {10, MQTT_TAKEN_LATER, 20, 7}, {50, MQTT_TAKEN_LATER, 20, 7}, {99, MQTT_TAKEN_LATER, 20, 7},
    {50, MQTT_TAKEN_LATER, 1, 7},  {90, MQTT_NOT_TAKEN, 20, 22},  {90, MQTT_NEVER_TAKEN, 20, 5},
};

ParameterizedTestParameters(outbox_shares, refused_topics_hold_up_no_other) {
    static size_t rows[] = {0, 1, 2, 3, 4, 5};
    return cr_make_param_array(size_t, rows, sizeof shares / sizeof shares[0]);
}

ParameterizedTest(size_t *row, outbox_shares, refused_topics_hold_up_no_other) {
    const struct share *share = &shares[*row];
    char name[32];
    snprintf(name, sizeof name, "row %zu", *row);
    broker.rule = refuse_share;
    broker.window = share->window;
    refusal = share->refusal;
    refused = TOPICS * share->percent / 100;
    report_for(10000);
    expect_all_within(SOON, refused, name);
    cr_expect_leq(most_tries(refused), share->tries, "%s: %u tries", name, most_tries(refused));
    cr_expect_eq(topics[0].taken, 0);
    if (share->refusal == MQTT_TAKEN_LATER)
        cr_expect_eq(set_aside, 0, "%s: %d were set aside", name, set_aside);
    cr_expect_eq(outbox_count(outbox) + (unsigned)set_aside, (unsigned)refused * 5, "%s: none is lost", name);
}

// It is not known which of those under way the broker closes at. Those that are refused for now tell nothing of that, and
// are many; the others have their turn among them.
Test(outbox_shares, one_that_it_closes_at_is_found_among_many_that_are_refused) {
    broker.rule = refuse_share;
    broker.window = 1000;
    refusal = MQTT_TAKEN_LATER;
    refused = TOPICS - 20;
    report_for(4000);
    broker.closes_at = refused; // the first of those that are taken
    for (int topic = 0; topic < TOPICS; topic++)
        put(topic);
    broker.at_once = 1;
    expect_all_within(20000, refused + 1, "those that are neither refused nor closed at");
    cr_expect_geq(set_aside, 1);
}

// What was refused goes out once the quota of its topic is over, in order.
Test(outbox_shares, what_was_refused_is_taken_later) {
    broker.rule = refuse_share;
    refusal = MQTT_TAKEN_LATER;
    refused = TOPICS / 2;
    report_for(6000);
    refused = 0;
    expect_all_within(20000, 0, "later");
    cr_expect_eq(set_aside, 0);
}

// Of state the last value goes out once it may.
Test(outbox_shares, refused_state_holds_up_no_other) {
    tree = "t/state/gw/devices/";
    retain = MQTT_RETAINED;
    broker.rule = refuse_share;
    refusal = MQTT_TAKEN_LATER;
    refused = TOPICS / 2;
    report_for(10000);
    expect_all_within(SOON, refused, "state");
    cr_expect_leq(most_tries(refused), 7, "%u tries", most_tries(refused));
    refused = 0;
    serve_for(20000);
    for (int topic = 0; topic < TOPICS; topic++)
        cr_assert_eq(topics[topic].last, (int)topics[topic].put, "topic %d has value %d", topic,
                     topics[topic].last);
}

// --- everything, or now and then ---

static bool refuses_all;

static enum mqtt_answer refuse_while_told(int topic, size_t nth) {
    return refuses_all ? MQTT_TAKEN_LATER : MQTT_TAKEN;
}

static enum mqtt_answer refuse_first_while_told(int topic, size_t nth) {
    return topic == 0 && refuses_all ? MQTT_TAKEN_LATER : MQTT_TAKEN;
}

static void put_beside_each_other(int count) {
    for (int i = 0; i < count; i++) {
        put(0);
        put(1);
    }
}

// What was under way together is refused together: that is one refusal, not as many as there were.
Test(outbox_shares, a_short_refusal_of_many_at_once_sets_nothing_aside) {
    broker.rule = refuse_first_while_told;
    refuses_all = true;
    put_beside_each_other(40);
    serve_for(1000);
    refuses_all = false;
    expect_all_within(10000, 0, "after a second");
    cr_expect_eq(set_aside, 0, "%d were set aside", set_aside);
}

// Before all tries were in vain nothing is set aside, however much waits.
Test(outbox_shares, a_long_refusal_of_many_sets_nothing_aside) {
    broker.rule = refuse_share;
    refusal = MQTT_TAKEN_LATER;
    refused = TOPICS / 2;
    report_for(40000);
    cr_expect_geq(outbox_count(outbox), 1500);
    refused = 0;
    expect_all_within(60000, 0, "after 40 s");
    cr_expect_eq(set_aside, 0, "%d were set aside", set_aside);
}

// What waits behind a message that turns out not to be sent at all has its turn.
Test(outbox_shares, those_behind_one_that_cannot_be_sent_go_on) {
    broker.rule = refuse_first_while_told;
    refuses_all = true;
    put_beside_each_other(3);
    cr_assert_eq(broker.count, 6, "all are under way");
    broker.too_large = 1;
    serve_for(500);
    refuses_all = false;
    serve_for(8000);
    cr_expect_eq(topics[0].taken, 2, "%u of those behind it came", topics[0].taken);
    cr_expect_eq(set_aside, 1);
}

// It is asked little meanwhile, and has everything soon after.
Test(outbox_shares, comes_back_soon_after_everything_was_refused) {
    broker.rule = refuse_while_told;
    report_for(2000);
    expect_all_within(SOON, 0, "before");
    refuses_all = true;
    size_t before = broker.count;
    report_for(30000);
    cr_expect_leq(broker.count - before, TOPICS + 3 * 31 + 20, "%zu were tried", broker.count - before);
    refuses_all = false;
    expect_all_within(3 * SOON, 0, "after");
    cr_expect_eq(set_aside, 0);
    cr_expect_eq(outbox_count(outbox), 0);
}

static enum mqtt_answer refuse_every_second(int topic, size_t nth) {
    return nth % 2 ? MQTT_TAKEN_LATER : MQTT_TAKEN;
}

Test(outbox_shares, takes_every_second_publish) {
    broker.rule = refuse_every_second;
    report_for(10000);
    expect_all_within(90000, 0, "later");
    cr_expect_eq(set_aside, 0);
}

// So many in a second, of whatever topic; half of what comes.
static enum mqtt_answer refuse_beyond_rate(int topic, size_t nth) {
    static uint64_t second;
    static int taken;
    if (uv_now(&loop) / 1000 != second)
        taken = 0;
    second = uv_now(&loop) / 1000;
    return ++taken <= TOPICS / 4 ? MQTT_TAKEN : MQTT_TAKEN_LATER;
}

// What the broker takes in time is used, and nothing is set aside because more comes.
Test(outbox_shares, keeps_to_a_rate_and_sets_nothing_aside) {
    broker.rule = refuse_beyond_rate;
    report_for(40000);
    unsigned taken = 20 * TOPICS - count_missing(0);
    cr_expect_geq(taken, 40 * TOPICS / 4 * 6 / 10, "only %u were taken", taken);
    cr_expect_eq(set_aside, 0, "%d were set aside", set_aside);
    cr_expect_eq(outbox_count(outbox), count_missing(0), "none is lost");
}

// --- many that wait ---

// Each topic gets so many messages, in turn.
static void put_many(int first, int end, int each) {
    for (int i = 0; i < each; i++)
        for (int topic = first; topic < end; topic++)
            put(topic);
}

// They wait on disk: others flow, and no device waits.
Test(outbox_shares, many_that_wait_hold_up_no_other) {
    broker.rule = refuse_share;
    refusal = MQTT_TAKEN_LATER;
    refused = TOPICS - 10;
    for (int i = 0; i < 3; i++) {
        put_many(0, refused, 15);
        serve_for(1000);
        put_many(refused, TOPICS, 5);
        expect_all_within(SOON, refused, "those that are not refused");
    }
    cr_expect_eq(worst_intake, OUTBOX_TAKES, "devices had to wait");
    cr_expect_eq(outbox_count(outbox), (unsigned)refused * 45);
    wait_until_safe();
    refused = 0;
    expect_all_within(60000, 0, "later");
    cr_expect_eq(out_of_order, 0, "%u were out of order", out_of_order);
    cr_expect_eq(set_aside, 0);
    serve_for(1000);
    cr_expect_eq(outbox_count(outbox), 0);
}

#define CHANGING 190 // topics from here on are taken, refused and taken; those before it are refused

static bool changes;

static enum mqtt_answer refuse_now_and_then(int topic, size_t nth) {
    bool refused_now = topic < CHANGING || !changes || topics[topic].tried % 4 == 3;
    return refuses_all && refused_now ? MQTT_TAKEN_LATER : MQTT_TAKEN;
}

static void fill_what_waits(void) {
    broker.rule = refuse_now_and_then;
    refuses_all = true;
    put_many(0, CHANGING, 32); // more than memory keeps
    serve_for(1000);
}

// A message that is refused waits again before those that are just read back.
Test(outbox_shares, topics_that_change_get_all_back_from_disk) {
    fill_what_waits();
    put_many(CHANGING, TOPICS, 100);
    serve_for(1000);
    changes = true;
    serve_for(20000);
    refuses_all = false;
    expect_all_within(60000, 0, "after");
    cr_expect_eq(set_aside, 0);
    serve_for(1000);
    cr_expect_eq(outbox_count(outbox), 0);
}

// A later value replaces what is to be read back: that is in memory then.
Test(outbox_shares, values_that_change_do_not_stay_behind) {
    fill_what_waits();
    tree = "t/state/gw/devices/1/telemetry/";
    retain = MQTT_RETAINED;
    for (int i = 0; i < 100; i++) {
        changes = i % 20 > 10;
        put_many(CHANGING, TOPICS, 1);
        serve_for(130);
    }
    refuses_all = false;
    serve_for(40000);
    cr_expect_eq(outbox_count(outbox), 0);
    for (int topic = CHANGING; topic < TOPICS; topic++)
        cr_expect_eq(topics[topic].last, (int)topics[topic].put, "topic %d", topic);
}

// As with a broker that says nothing: the disk is there for that.
Test(outbox_shares, devices_do_not_wait_while_everything_is_refused) {
    broker.rule = refuse_while_told;
    refuses_all = true;
    for (int i = 0; i < 12; i++) {
        put_many(0, TOPICS, 5);
        serve_for(1000);
    }
    cr_expect_eq(worst_intake, OUTBOX_TAKES, "devices had to wait");
    wait_until_safe();
    refuses_all = false;
    expect_all_within(60000, 0, "after");
    cr_expect_eq(out_of_order, 0, "%u were out of order", out_of_order);
    cr_expect_eq(set_aside, 0);
}

// --- a gateway that is killed ---

static unsigned on_disk[TOPICS];

static void note_on_disk(void *context, uint64_t number, const struct mqtt_publish *publish) {
    on_disk[atoi(strrchr(publish->topic, '/') + 1)]++;
}

static void note_read(void *context, bool ok) {
    cr_assert(ok);
    *(bool *)context = true;
}

// Counts what stands on the disk of a gateway that is killed now.
static void count_on_disk(void) {
    char command[256], path[128], *reason;
    bool done = false;
    snprintf(command, sizeof command, "mkdir %s/copy && cp %s/store.db* %s/copy/", directory, directory,
             directory);
    cr_assert(system(command) == 0);
    snprintf(path, sizeof path, "%s/copy/store.db", directory);
    struct store *copy = store_open(&loop, path, &reason);
    cr_assert(copy != NULL, "%s", reason);
    store_load_messages(copy, 0, 100000, note_on_disk, note_read, &done);
    while (!done)
        calm_clock_step(&loop);
    store_stop(copy);
    serve_for(100);
    store_close(copy);
}

// What is safe and was not taken stands on disk, wherever it waits.
Test(outbox_shares, a_kill_loses_nothing_that_waits) {
    broker.rule = refuse_share;
    refusal = MQTT_TAKEN_LATER;
    refused = TOPICS - 10;
    put_many(0, TOPICS, 40);
    serve_for(3000);
    refused = TOPICS / 2; // some of it goes out meanwhile
    serve_for(2000);
    cr_assert_geq(count_missing(0), TOPICS / 2 * 40);
    wait_until_safe();
    broker.up = false;
    count_on_disk();
    for (int topic = 0; topic < TOPICS; topic++)
        cr_expect_geq(on_disk[topic], topics[topic].put - topics[topic].taken, "topic %d: %u are on disk",
                      topic, on_disk[topic]);
}

// --- quotas of the topics' own ---

// A tenth of the topics has a quota, of half of what they send; the first one is refused always.
static enum mqtt_answer refuse_beyond_own_rate(int topic, size_t nth) {
    static uint64_t taken_at[TOPICS];
    if (topic == 0)
        return MQTT_TAKEN_LATER;
    if (topic >= TOPICS / 10)
        return MQTT_TAKEN;
    if (taken_at[topic] != 0 && uv_now(&loop) - taken_at[topic] < 2 * PERIOD)
        return MQTT_TAKEN_LATER;
    taken_at[topic] = uv_now(&loop);
    return MQTT_TAKEN;
}

// Their retries are taken now and then, which does not make the quota one of ours.
Test(outbox_shares, quotas_of_topics_are_no_quota_of_ours) {
    broker.rule = refuse_beyond_own_rate;
    for (int i = 0; i < 130 && set_aside == 0; i++)
        report_for(PERIOD);
    expect_all_within(SOON, TOPICS / 10, "those without a quota");
    cr_expect_eq(set_aside, 1, "%d of the topic that is to blame were set aside", set_aside);
    cr_expect_leq(topics[0].tried, 20, "%u tries of it", topics[0].tried);
    for (int topic = 1; topic < TOPICS / 10; topic++)
        cr_expect_geq(topics[topic].taken * 5 / 2, topics[topic].put - 20, "topic %d: %u", topic,
                      topics[topic].taken);
}

// --- a share that changes ---

static enum mqtt_answer refuse_changing_half(int topic, size_t nth) {
    if (topic == TOPICS - 1 || !refuses_all)
        return MQTT_TAKEN;
    return ((uint64_t)topic + uv_now(&loop) / 4000) % 2 ? MQTT_TAKEN_LATER : MQTT_TAKEN;
}

// The one that is never refused has all of its own in time, whatever happens to the others; and so have they in the end.
Test(outbox_shares, a_share_that_changes_holds_up_no_other) {
    broker.rule = refuse_changing_half;
    refuses_all = true;
    for (int i = 0; i < 14; i++) {
        put_many(0, TOPICS, 4);
        serve_for(PERIOD);
        cr_expect_leq(count_missing(TOPICS - 1), 4, "%u are missing", count_missing(TOPICS - 1));
    }
    refuses_all = false;
    expect_all_within(4 * SOON, 0, "after");
    cr_expect_eq(set_aside, 0);
}

// --- what is in the background ---

static enum mqtt_answer take_all(int topic, size_t nth) {
    return MQTT_TAKEN;
}

static void expect_reports_within(size_t answers, const char *what) {
    size_t began = broker.answered;
    for (uint64_t end = uv_now(&loop) + 60000; count_missing(TOPICS / 2) > 0 && uv_now(&loop) < end;)
        serve_for(20);
    cr_expect_leq(broker.answered - began, answers, "%s: %zu answers", what, broker.answered - began);
    cr_expect_geq(count_missing(0), 500, "%s: all of what is in the background went before", what);
}

// Of many topics, as each keeps one.
static void put_values(void) {
    char name[48];
    retain = MQTT_RETAINED;
    for (int device = 0; device < 9; device++) {
        snprintf(name, sizeof name, "t/state/gw/devices/%d/telemetry/", device);
        tree = name;
        put_many(0, TOPICS / 2, 1);
    }
    retain = MQTT_NOT_RETAINED;
}

// What tells of reports, and their last values, do not go before them where not all can go at once, and come in the end.
Test(outbox_shares, reports_do_not_wait_behind_log_entries_and_state) {
    static const char *const trees[] = {"t/log/gw/channels/", "values", "t/message/gw/devices/"};
    broker.rule = take_all;
    for (int i = 0; i < 3; i++) {
        tree = trees[i];
        background = i == 2; // of devices that nobody knows
        memset(topics, 0, sizeof topics);
        if (i == 1)
            put_values();
        else
            put_many(0, TOPICS / 2, 20);
        cr_expect_eq(outbox_keeps_up(outbox), true);
        tree = trees[2];
        background = false;
        put_many(TOPICS / 2, TOPICS, 1);
        expect_reports_within(TOPICS / 2 * 3 + 100, trees[i]);
        expect_all_within(60000, 0, "in the end");
        cr_expect_eq(out_of_order, 0, "%u were out of order", out_of_order);
    }
}

// First strangers wait with what they have to say, then all; and state waits where it is made.
Test(outbox_shares, what_is_in_the_background_has_a_bound) {
    broker.rule = take_all;
    tree = "t/log/gw/channels/";
    put_many(0, TOPICS, 9);
    cr_expect_eq(worst_intake, OUTBOX_TAKES);
    put_many(0, TOPICS, 2);
    cr_expect_eq(worst_intake, OUTBOX_CROWDED);
    put_many(0, TOPICS, 1000);
    cr_expect_eq(worst_intake, OUTBOX_BUSY);
    cr_expect(outbox_keeps_up(outbox), "log entries hold up no state");
    expect_all_within(600000, 0, "in the end");
    cr_expect_eq(last_intake, OUTBOX_TAKES);
}

Test(outbox_shares, state_that_waits_has_a_bound) {
    static const char *const trees[] = {"t/state/gw/a/", "t/state/gw/b/", "t/state/gw/c/",
                                        "t/state/gw/d/", "t/state/gw/e/", "t/state/gw/f/"};
    broker.rule = take_all;
    retain = MQTT_RETAINED;
    for (int i = 0; i < 6; i++) {
        cr_expect_eq(outbox_keeps_up(outbox), true, "%d", i);
        tree = trees[i];
        put_many(0, TOPICS, 1);
    }
    cr_expect_eq(outbox_keeps_up(outbox), false);
    expect_all_within(60000, 0, "in the end");
    cr_expect_eq(outbox_keeps_up(outbox), true);
}

// A device that expects an acknowledgement does not wait for what is in the background, unless its own report is there.
static bool safe[3];

static void note_safe(struct outbox_waiter *waiter, bool is_safe) {
    safe[waiter->first % 3] = is_safe;
}

Test(outbox_shares, an_acknowledgement_does_not_wait_for_the_background) {
    struct outbox_waiter waiters[3] = {{.done = note_safe}, {.done = note_safe}, {.done = note_safe}};
    broker.rule = take_all;
    put_many(0, 50, 1); // more than a window
    tree = "t/log/gw/channels/";
    put_many(50, 150, 1);
    for (int i = 0; i < 3; i++) {
        tree = i == 0 ? "t/log/gw/channels/" : "t/message/gw/devices/";
        background = i == 1;
        put(150 + i);
        waiters[i].first = waiters[i].last = outbox_last_number(outbox);
        waiters[i].background = i == 1;
        outbox_when_safe(outbox, &waiters[i]);
    }
    while (topics[152].taken == 0) // the disk has no time meanwhile
        serve();
    cr_expect(safe[waiters[2].first % 3], "the report was taken");
    cr_expect(topics[151].taken == 0 && !safe[waiters[1].first % 3], "that of a stranger was not");
    expect_all_within(60000, 0, "in the end");
    cr_expect(safe[0] && safe[1] && safe[2]);
}

// The broker has taken something of what it says until then: it must not be there before that.
Test(outbox_shares, what_the_instance_says_goes_in_its_turn) {
    broker.rule = take_all;
    put_many(0, 50, 1);
    tree = "t/state/gw/devices/7/commands-queue/";
    put_many(50, 100, 1);
    tree = "t/state/gw/instances/me/marker/";
    put(150);
    while (topics[150].taken == 0)
        serve();
    for (int topic = 50; topic < 100; topic++)
        cr_expect_eq(topics[topic].taken, 1, "topic %d", topic);
}

// A link that sends slowly has no place either, however few are under way.
Test(outbox_shares, a_link_that_sends_slowly_takes_reports_first) {
    broker.rule = take_all;
    broker.window = 1000;
    broker.paced = true;
    tree = "t/log/gw/channels/";
    put_many(0, TOPICS / 2, 1);
    tree = "t/message/gw/devices/";
    put_many(TOPICS / 2, TOPICS, 1);
    for (int i = 0; i < TOPICS && count_missing(TOPICS / 2) > 0; i++) {
        broker.paced_left = 1;
        outbox_link_ready(outbox);
        serve();
    }
    cr_expect_eq(count_missing(TOPICS / 2), 0);
    cr_expect_geq(count_missing(0), 1, "all log entries went before");
    broker.paced = false;
    expect_all_within(60000, 0, "in the end");
}
