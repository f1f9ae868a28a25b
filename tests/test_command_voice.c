// What is said of a command, with a broker of the test's own in place of the link: which topics, which
// payloads, in which order, and what then stands on disk.
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/commands/voice.h"
#include "tests/temporary.h"

#define SAID_MAX    20
#define MAX_BYTES   (40 << 20) // of the outbox: so much is on disk
#define ID          1700000000123456
#define LOG_TOPIC   "tb/log/gw/devices/42/commands-queue/"
#define ENTRY_TOPIC "tb/state/gw/devices/42/commands-queue/1700000000123456"

// --- the broker: notes what it is handed ---

struct said {
    char topic[200], payload[1000];
    enum mqtt_retain retain;
    char correlation[20];
    size_t correlation_length;
};
static struct said said[SAID_MAX];
static size_t said_count;

static bool link_is_up = true;

static bool is_up(void *context) {
    return link_is_up;
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    cr_assert(said_count < SAID_MAX && publish->qos == 1);
    struct said *one = &said[said_count++];
    snprintf(one->topic, sizeof one->topic, "%s", publish->topic);
    snprintf(one->payload, sizeof one->payload, "%.*s", (int)publish->length, (const char *)publish->payload);
    one->retain = publish->retain;
    one->correlation_length = publish->correlation_length;
    if (publish->correlation != NULL)
        memcpy(one->correlation, publish->correlation, publish->correlation_length);
    *mid = (int)said_count;
    return MQTT_SENT;
}

static void reset(void *context, const char *why) {
    cr_assert_fail("the connection is broken: %s", why);
}

static const struct mqtt_carrier carrier = {.is_up = is_up, .publish = publish, .reset = reset};

// What was said as number index has that topic, is retained or not, and its payload has what the JSON has.
static void expect_said(size_t index, const char *topic, enum mqtt_retain retain, const char *json) {
    cr_assert(index < said_count, "%zu were said, expected %s", said_count, topic);
    const struct said *one = &said[index];
    cr_assert_str_eq(one->topic, topic, "%s came, expected %s", one->topic, topic);
    cr_assert(one->retain == retain, "%s: retained %d", topic, (int)one->retain);
    json_t *payload = json_loads(one->payload, 0, NULL), *expected = json_loads(json, 0, NULL), *value;
    const char *name;
    cr_assert(payload != NULL && expected != NULL, "%s: %s", topic, one->payload);
    json_object_foreach(expected, name, value) {
        cr_assert(json_equal(json_object_get(payload, name), value), "%s: %s in %s, expected %s", topic, name,
                  one->payload, json);
    }
    json_decref(payload);
    json_decref(expected);
}

static void expect_emptied(size_t index) {
    cr_assert(index < said_count && strcmp(said[index].topic, ENTRY_TOPIC) == 0);
    cr_assert(said[index].payload[0] == '\0' && said[index].retain == MQTT_RETAINED);
}

static void expect_none_of(size_t index, const char *name) {
    json_t *payload = json_loads(said[index].payload, 0, NULL);
    cr_assert(json_object_get(payload, name) == NULL, "%s", said[index].payload);
    json_decref(payload);
}

// --- around it ---

static char directory[TEMPORARY_MAX], path[96];
static uv_loop_t loop;
static struct store *store;
static struct outbox *outbox;
static struct bus *bus;
static struct command_voice voice;
static struct command_counts counts;
static struct command *command;

static void ignore_aside(void *context) {
}

static void ignore_intake(void *context, enum outbox_intake intake) {
}

static void set_up(void) {
    char *reason;
    make_temporary(directory, "voice");
    snprintf(path, sizeof path, "%s/store.db", directory);
    uv_loop_init(&loop);
    store = store_open(&loop, path, &reason);
    cr_assert(store != NULL, "%s", reason);
    outbox = outbox_new(&loop, store, "tb", SAID_MAX, MAX_BYTES,
                        &(struct outbox_handlers){NULL, ignore_intake, ignore_aside});
    outbox_set_carrier(outbox, &carrier);
    outbox_link_up(outbox);
    bus = bus_new("tb", "me", outbox, &carrier);
    voice = (struct command_voice){.bus = bus, .outbox = outbox, .store = store, .counts = &counts};
    command = calloc(1, sizeof *command);
    command->id = ID;
    command->key = strdup("devices/42");
    command->device_id = 42;
    command->definition = json_pack("{s:s, s:{s:s}, s:{s:i}, s:i}", "name", "reboot", "properties", "a", "b",
                                    "meta", "c", 7, "priority", 3);
    command->created = 1700000000123456;
    command->expires = 1700086400123456;
    command->max_attempts = 3;
}

static void take_down(void) {
    char line[96];
    command_free(command);
    outbox_stop(outbox);
    store_stop(store);
    uv_run(&loop, UV_RUN_DEFAULT);
    outbox_free(outbox);
    bus_free(bus);
    store_close(store);
    cr_assert(uv_loop_close(&loop) == 0);
    snprintf(line, sizeof line, "rm -rf %s", directory);
    cr_assert(system(line) == 0);
}

TestSuite(command_voice, .init = set_up, .fini = take_down);

static void end_as(enum command_state end) {
    command->state = end;
    command->result = json_pack("{s:b, s:n, s:s}", "executed", 0, "response", "reason", "why");
}

// --- steps ---

Test(command_voice, logs_that_it_is_queued) {
    command_voice_log(&voice, command, COMMAND_QUEUED, NULL);
    cr_assert(said_count == 1);
    expect_said(
        0, LOG_TOPIC "reboot/queued", MQTT_NOT_RETAINED,
        "{\"event_code\":330,\"id\":1700000000123456,\"name\":\"reboot\",\"properties\":{\"a\":\"b\"},"
        "\"meta\":{\"c\":7},\"device_id\":42}");
    for (size_t i = 0; i < 4; i++)
        expect_none_of(0, ((const char *[]){"ident", "channel_id", "attempts", "priority"})[i]);
}

Test(command_voice, logs_that_it_is_sent_and_where) {
    json_t *where = json_pack("{s:s}", "transport", "udp");
    command->attempts = 2;
    command->channel_id = 1;
    command->sent_on = 5;
    strcpy(command->ident, "van");
    command_voice_log(&voice, command, COMMAND_SENT, where);
    json_decref(where);
    expect_said(
        0, LOG_TOPIC "reboot/sent", MQTT_NOT_RETAINED,
        "{\"event_code\":334,\"attempts\":2,\"channel_id\":5,\"ident\":\"van\",\"transport\":\"udp\"}");
}

static const struct step {
    enum command_state state;
    int event_code;
    const char *name;
} steps[] = {
    {COMMAND_CANCELED, 331, "canceled"},
    {COMMAND_PROCESSED, 332, "processed"},
    {COMMAND_EXPIRED, 333, "expired"},
};

Test(command_voice, logs_each_end) {
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        char topic[100], json[100];
        command->state = steps[i].state;
        command_voice_result(&voice, command);
        snprintf(topic, sizeof topic, LOG_TOPIC "reboot/%s", steps[i].name);
        snprintf(json, sizeof json, "{\"event_code\":%d}", steps[i].event_code);
        expect_said(i, topic, MQTT_NOT_RETAINED, json);
    }
}

static const struct name {
    const char *name, *level;
} names[] = {
    {"a.B-9_?", "a.B-9_?"}, {"", "invalid"},   {"a/b", "invalid"}, {"+", "invalid"},
    {"#", "invalid"},       {NULL, "invalid"}, {"a b", "invalid"}, {"\xc3\xa4", "invalid"},
};

Test(command_voice, a_name_that_cannot_stand_in_a_topic_is_invalid) {
    char name[66] = "";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_object_set_new(command->definition, "name",
                            names[i].name != NULL ? json_string(names[i].name) : json_null());
        cr_assert_str_eq(command_voice_name(command), names[i].level);
    }
    memset(name, 'n', 65);
    json_object_set_new(command->definition, "name", json_string(name));
    cr_assert_str_eq(command_voice_name(command), "invalid");
    json_object_set_new(command->definition, "name", json_string(name + 1));
    cr_assert_str_eq(command_voice_name(command), name + 1);
}

// --- results ---

Test(command_voice, responds_with_the_correlation) {
    command->response_topic = strdup("their/own");
    command->correlation = malloc(4);
    memcpy(command->correlation, "\0\xff\x01z", 4);
    command->correlation_length = 4;
    end_as(COMMAND_PROCESSED);
    command_voice_result(&voice, command);
    cr_assert(said_count == 2);
    for (size_t i = 0; i < 2; i++) // the same, here and there
        expect_said(i, i == 0 ? LOG_TOPIC "reboot/processed" : "their/own", MQTT_NOT_RETAINED,
                    "{\"event_code\":332,\"executed\":false,\"response\":null,\"reason\":\"why\",\"meta\":{"
                    "\"c\":7}}");
    cr_assert(said[0].correlation_length == 0);
    cr_assert(said[1].correlation_length == 4 && memcmp(said[1].correlation, "\0\xff\x01z", 4) == 0);
}

Test(command_voice, responds_to_nobody_when_nobody_asked) {
    end_as(COMMAND_PROCESSED);
    command_voice_result(&voice, command);
    cr_assert(said_count == 1);
}

// --- the entry ---

static json_t *stored; // row of the disk
static size_t stored_count;

static void note_stored(void *context, int64_t id, const char *entry) {
    cr_assert(id == ID);
    stored_count++;
    json_decref(stored);
    stored = json_loads(entry, 0, NULL);
}

static bool written;

static void note_written(void *context, bool ok) {
    cr_assert(ok);
    written = true;
}

// Reads the disk again.
static void read_disk(void) {
    written = false;
    store_when_written(store, note_written, NULL);
    while (!written)
        cr_assert(uv_run(&loop, UV_RUN_ONCE) != 0, "the store says nothing");
    stored_count = 0;
    store_each_command(store, note_stored, NULL);
}

static const char *stored_text(const char *part, const char *name) {
    return json_string_value(json_object_get(json_object_get(stored, part), name));
}

Test(command_voice, the_entry_stands_retained_and_on_disk_and_is_ours) {
    command->instance = strdup("another");
    cr_assert(!command_voice_is_own(&voice, command));
    command_voice_publish(&voice, command);
    cr_assert(said_count == 1 && command->confirmed && command_voice_is_own(&voice, command));
    expect_said(0, ENTRY_TOPIC, MQTT_RETAINED,
                "{\"id\":1700000000123456,\"state\":\"queued\",\"instance\":\"me\",\"device_id\":42,"
                "\"priority\":3,\"max_attempts\":3}");
    read_disk();
    cr_assert(stored_count == 1);
    cr_assert_str_eq(json_string_value(json_object_get(stored, "key")), "devices/42");
    cr_assert_str_eq(stored_text("entry", "state"), "queued");
    cr_assert_str_eq(stored_text("entry", "instance"), "me");
    json_decref(stored);
}

Test(command_voice, the_entry_is_on_its_way_until_the_broker_has_it) {
    cr_assert(!command_voice_is_on_its_way(&voice, command));
    command_voice_publish(&voice, command);
    cr_assert(command_voice_is_on_its_way(&voice, command));
    outbox_published(outbox, 1, MQTT_TAKEN, "");
    cr_assert(!command_voice_is_on_its_way(&voice, command));
}

// The end: how, then the result, and the empty entry last.
Test(command_voice, the_end_empties_the_entry_last) {
    command->response_topic = strdup("their/own");
    end_as(COMMAND_EXPIRED);
    command_voice_publish_end(&voice, command);
    cr_assert(counts.expired == 1 && counts.executed + counts.failed + counts.canceled == 0);
    cr_assert(said_count == 3); // two retained messages to one topic are never under way at once
    expect_said(
        0, ENTRY_TOPIC, MQTT_RETAINED,
        "{\"state\":\"expired\",\"result\":{\"executed\":false,\"response\":null,\"reason\":\"why\"}}");
    expect_said(1, LOG_TOPIC "reboot/expired", MQTT_NOT_RETAINED, "{\"reason\":\"why\"}");
    expect_said(2, "their/own", MQTT_NOT_RETAINED, "{\"reason\":\"why\"}");
    for (int mid = 1; mid <= 3; mid++)
        outbox_published(outbox, mid, MQTT_TAKEN, "");
    outbox_link_ready(outbox);
    cr_assert(said_count == 4);
    expect_emptied(3);
    cr_assert(command_voice_is_on_its_way(&voice, command)); // the number is the last one's
    outbox_published(outbox, 4, MQTT_TAKEN, "");
    cr_assert(!command_voice_is_on_its_way(&voice, command));
    command_voice_publish_end(&voice, command);
    cr_assert(counts.expired == 1, "said again, it has not ended again");
}

// --- tombstones ---

Test(command_voice, a_tombstone_takes_the_place_of_the_entry_on_disk) {
    command_voice_keep(&voice, command);
    read_disk();
    cr_assert(command_from_tombstone(ID, stored) == NULL);
    command->state = COMMAND_CANCELED;
    command->forget_at = 1700003600123456;
    command_voice_keep_tombstone(&voice, command);
    read_disk();
    struct command *read = command_from_tombstone(ID, stored);
    cr_assert(stored_count == 1 && read != NULL && read->id == ID && read->state == COMMAND_CANCELED);
    cr_assert(read->forget_at == 1700003600123456 && strcmp(read->key, "devices/42") == 0);
    command_free(read);
    json_decref(stored);
    command_voice_forget(&voice, command);
    stored = NULL;
    read_disk();
    cr_assert(stored_count == 0 && said_count == 0);
}

static struct command *stale_entry(void) {
    char *reason;
    json_t *entry = command_to_json(command);
    json_object_set_new(entry, "state", json_string("sent"));
    json_object_set_new(entry, "instance", json_string("another"));
    struct command *stale = command_from_json("devices/42", entry, &reason);
    json_decref(entry);
    cr_assert(stale != NULL, "%s", reason);
    return stale;
}

Test(command_voice, what_the_broker_holds_of_an_ended_one_is_ended_and_emptied) {
    struct command *stale = stale_entry();
    command->state = COMMAND_PROCESSED;
    command_voice_clear_stale(&voice, command, stale);
    cr_assert(said_count == 0); // its own end is on the way
    command->forget_at = 1;
    command_voice_clear_stale(&voice, command, stale);
    cr_assert(said_count == 1);
    expect_said(0, ENTRY_TOPIC, MQTT_RETAINED, "{\"state\":\"processed\",\"instance\":\"me\"}");
    outbox_published(outbox, 1, MQTT_TAKEN, "");
    outbox_link_ready(outbox);
    cr_assert(said_count == 2);
    expect_emptied(1);
    command_free(stale);
}

// --- a full outbox: "not now" ---

#define FILLING ((64 << 20) + 1) // bytes
#define ALMOST  (MAX_BYTES - 100)

static void put_bytes(size_t length) {
    char *payload = calloc(1, length);
    link_is_up = false;
    outbox_link_down(outbox, MQTT_ENDED_BY_US);
    outbox_put(outbox,
               &(struct mqtt_publish){.topic = "fill", .payload = payload, .length = length, .qos = 1});
    free(payload);
}

static void fill_outbox(void) {
    put_bytes(FILLING);
    cr_assert(outbox_is_full(outbox));
}

static void empty_outbox(void) {
    link_is_up = true;
    outbox_link_up(outbox);
    while (said_count == 0) // it is read back from the disk
        cr_assert(uv_run(&loop, UV_RUN_ONCE) != 0, "the outbox says nothing");
    outbox_published(outbox, 1, MQTT_TAKEN, "");
    while (outbox_is_full(outbox))
        cr_assert(uv_run(&loop, UV_RUN_ONCE) != 0, "the outbox has no room");
    said_count = 0;
}

Test(command_voice, an_entry_that_does_not_fit_is_not_taken_for_published) {
    fill_outbox();
    command_voice_publish(&voice, command);
    cr_assert(command->unsaid && !command->confirmed && command->published == 0);
    cr_assert(command_voice_is_on_its_way(&voice, command)); // what the broker has is older
    empty_outbox();
    command_voice_publish(&voice, command);
    cr_assert(!command->unsaid && command->confirmed && said_count == 1);
    expect_said(0, ENTRY_TOPIC, MQTT_RETAINED, "{\"state\":\"queued\"}");
}

Test(command_voice, an_end_that_does_not_fit_is_not_said_by_halves) {
    command->response_topic = strdup("their/own");
    end_as(COMMAND_PROCESSED);
    fill_outbox();
    for (int i = 0; i < 3; i++)
        command_voice_publish_end(&voice, command);
    cr_assert(command->published == 0);
    empty_outbox();
    cr_assert(said_count == 0);
    command_voice_publish_end(&voice, command);
    cr_assert(command->published != 0 && said_count == 3); // the result once
    for (int mid = 1; mid <= 3; mid++)
        outbox_published(outbox, mid, MQTT_TAKEN, "");
    outbox_link_ready(outbox);
    cr_assert(said_count == 4);
    expect_emptied(3);
}

// The broker takes all that waits.
static void drain_outbox(void) {
    int taken = 0;
    link_is_up = true;
    outbox_link_up(outbox);
    while (outbox_count(outbox) > 0) {
        while (taken < (int)said_count)
            outbox_published(outbox, ++taken, MQTT_TAKEN, "");
        outbox_link_ready(outbox);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

// The outbox is full from the first step on: the next calls go on there, and nobody is told twice.
Test(command_voice, an_end_whose_first_step_fills_the_outbox_goes_on_there) {
    command->response_topic = strdup("their/own");
    end_as(COMMAND_PROCESSED);
    put_bytes(ALMOST);
    cr_assert(!outbox_is_full(outbox));
    for (int i = 0; i < 3; i++)
        command_voice_publish_end(&voice, command);
    cr_assert(outbox_is_full(outbox) && command->published == 0 && outbox_count(outbox) == 2);
    drain_outbox();
    expect_said(said_count - 1, ENTRY_TOPIC, MQTT_RETAINED, "{\"state\":\"processed\"}");
    said_count = 0;
    for (int i = 0; i < 3 && command->published == 0; i++)
        command_voice_publish_end(&voice, command);
    drain_outbox();
    cr_assert(said_count == 3);
    expect_said(0, LOG_TOPIC "reboot/processed", MQTT_NOT_RETAINED, "{\"reason\":\"why\"}");
    size_t emptied = strcmp(said[1].topic, ENTRY_TOPIC) == 0 ? 1 : 2; // it may come off the disk
    expect_emptied(emptied);
    expect_said(3 - emptied, "their/own", MQTT_NOT_RETAINED, "{\"reason\":\"why\"}");
}

Test(command_voice, what_is_stale_is_not_taken_for_cleared) {
    struct command *stale = stale_entry();
    command->state = COMMAND_PROCESSED;
    command->forget_at = 1;
    fill_outbox();
    cr_assert(!command_voice_clear_stale(&voice, command, stale));
    empty_outbox();
    cr_assert(command_voice_clear_stale(&voice, command, stale) && said_count == 1);
    outbox_published(outbox, 1, MQTT_TAKEN, "");
    outbox_link_ready(outbox);
    cr_assert(said_count == 2);
    expect_emptied(1);
    command_free(stale);
}
