// Which of several gateways sends a command: the first one whose word that it does comes from the broker.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/sync.h"
#include "tests/carrier.h"

#define ID    1700000000123456
#define HOUR  3600000000LL
#define IDENT "866425031361423"
#define TOPIC "devices/42/commands-queue/1700000000123456"

static struct carrier carrier;
static struct bus *bus;
static struct roll_call *roll_call;
static struct command_voice voice;
static struct command_table table;
static struct command_queue queue;
static struct command_sync sync_;
static struct config config;
static struct config_channel channel = {.id = 1, .name = "mictrack"};
static struct command *command;
static bool others, settled;
static size_t sent; // times that bytes went to the device

static void note_bytes(void *context, const uint8_t *bytes, size_t length) {
    cr_assert(length == 8 && memcmp(bytes, "light,1#", 8) == 0);
    sent++;
}

static bool find_road(void *context, int64_t device_id, const char *ident, struct road *road) {
    *road = (struct road){.channel = &channel,
                          .device_id = device_id,
                          .ident = IDENT,
                          .source = "127.0.0.1:1",
                          .serial = 7,
                          .send = note_bytes};
    return true;
}

static bool has_others(void *context) {
    return others;
}

static const struct command_roads roads = {.find = find_road, .has_others = has_others};

static void ignore(void *context) {
}

static void note_settled(void *context) {
    settled = true;
}

// What the broker retains has been heard.
static void settle(void) {
    struct mqtt_received question = {.topic = ""};
    roll_call_begin(roll_call);
    roll_call_ask(roll_call);
    question.payload = (const void *)carrier_last(&carrier)->payload;
    question.length = strlen(carrier_last(&carrier)->payload);
    roll_call_received(roll_call, "instances/me/sync", &question);
    carrier_run_until(&carrier, &settled);
}

static json_t *definition(void) {
    return json_pack("{s:s, s:{s:s}}", "name", "custom", "properties", "payload", "light,1#");
}

static void add_command(void) {
    command = calloc(1, sizeof *command);
    command->id = ID;
    command->key = strdup("devices/42");
    command->device_id = 42;
    command->definition = definition();
    command->max_attempts = 3;
    command->created = clock_now();
    command->expires = command->created + HOUR;
    command->expires_at = clock_ticks() + HOUR;
    command->confirmed = true;
    command->state = COMMAND_QUEUED;
    command_table_add(&table, command);
}

static void set_up(void) {
    carrier_open(&carrier);
    carrier_go_up(&carrier);
    bus = bus_new("t", "me", carrier.outbox, &carrier.carrier);
    roll_call = roll_call_new(&carrier.loop, bus,
                              &(struct roll_call_handlers){.answered = ignore, .settled = note_settled});
    voice = (struct command_voice){.bus = bus, .outbox = carrier.outbox, .store = carrier.store};
    channel.codec = codec_find("mictrack");
    config.commands.timeout = 30;
    queue = (struct command_queue){
        .config = &config, .table = &table, .voice = &voice, .roll_call = roll_call, .roads = &roads};
    sync_ = (struct command_sync){.queue = &queue, .roll_call = roll_call};
    settle();
    add_command();
    others = true;
    sent = 0;
}

static void tear_down(void) {
    roll_call_stop(roll_call);
    carrier_close(&carrier); // what was still to be written has been
    command_queue_clear(&queue);
    command_table_clear(&table);
    roll_call_free(roll_call);
    bus_free(bus);
}

TestSuite(command_claim, .init = set_up, .fini = tear_down);

// An entry comes from the broker as instance has published it.
static void hear(const char *instance, const char *state, int attempts) {
    json_t *entry = command_to_json(command);
    json_object_update_new(entry, definition()); // of one that has ended nothing is left
    json_object_update_new(
        entry, json_pack("{s:s, s:s, s:i}", "instance", instance, "state", state, "attempts", attempts));
    if (strcmp(state, "sent") == 0)
        json_object_update_new(entry,
                               json_pack("{s:f, s:s, s:b}", "answer_by", (double)clock_now() / 1e6 + 30,
                                         "answer_key", "light", "answer_final", 0));
    if (strcmp(state, "processed") == 0)
        json_object_set_new(entry, "result", json_pack("{s:b, s:n}", "executed", 1, "response"));
    char *text = json_dumps(entry, 0);
    command_sync_received(
        &sync_, TOPIC,
        &(struct mqtt_received){.topic = TOPIC, .payload = (void *)text, .length = strlen(text)});
    free(text);
    json_decref(entry);
}

static size_t entries(const char *payload_has) {
    size_t count = 0;
    for (size_t i = 0; i < carrier.count; i++)
        count += strstr(carrier.carried[i].topic, "commands-queue/1700000000123456") != NULL &&
                 strstr(carrier.carried[i].payload, payload_has) != NULL;
    return count;
}

static void answer_all(void) {
    carrier_answer_all(&carrier);
    outbox_link_ready(carrier.outbox);
}

Test(command_claim, without_others_it_is_sent_at_once) {
    others = false;
    command_queue_send_next(&queue, "devices/42");
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
}

Test(command_claim, with_others_it_is_sent_when_its_entry_has_come_back) {
    command_queue_send_next(&queue, "devices/42");
    cr_assert(sent == 0 && entries("\"sent\"") == 1);
    hear("me", "queued", 0); // from before
    cr_assert(sent == 0);
    hear("me", "sent", 1);
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
    hear("me", "sent", 1);
    cr_assert(sent == 1);
}

Test(command_claim, another_that_was_first_sends_it) {
    command_queue_send_next(&queue, "devices/42");
    hear("another", "sent", 1);
    hear("me", "sent", 1);
    cr_assert(sent == 0 && command->state == COMMAND_SENT && strcmp(command->instance, "another") == 0);
}

Test(command_claim, another_that_comes_behind_changes_nothing) {
    command_queue_send_next(&queue, "devices/42");
    hear("me", "sent", 1);
    answer_all();
    hear("another", "sent", 1);
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
}

// The device answered there, and is here before that was heard. Our word stands in the broker behind the end.
Test(command_claim, one_that_ended_elsewhere_is_not_sent_and_not_left_behind) {
    command_queue_send_next(&queue, "devices/42");
    hear("another", "sent", 1);
    hear("another", "processed", 1);
    cr_assert(sent == 0 && command->state == COMMAND_PROCESSED);
    answer_all();
    hear("me", "sent", 1);
    answer_all();
    answer_all();
    cr_assert(sent == 0 && entries("") == 3);
    cr_assert_str_eq(carrier_last(&carrier)->payload, "");
}

Test(command_claim, one_whose_entry_does_not_come_back_is_tried_again) {
    command_queue_send_next(&queue, "devices/42");
    command_queue_sweep(&queue, clock_ticks());
    cr_assert(command->state == COMMAND_SENT);
    command_queue_sweep(&queue, clock_ticks() + 31000000);
    cr_assert(sent == 0 && command->attempts == 1 && command->unheard); // taken back, and said once more
    hear("me", "sent", 1);
    cr_assert(sent == 1);
}
