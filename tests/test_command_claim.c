// Which of several gateways sends a command: the first one whose word that it does comes from the broker.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/parse.h"
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
static struct command_journal journal; // empty
static struct config config;
static struct config_channel channel = {.id = 1, .name = "mictrack"};
static struct command *command;
static bool others, settled;
static uint64_t serial;     // of the device's connection; 0: it is not here
static uint64_t memory[64]; // of the codec, about that
static bool any_sent;
static const char *text; // of the command
static size_t sent;      // times that bytes went to the device
static uint8_t device_got[CODEC_COMMAND_MAX];
static size_t device_got_length;

static void note_bytes(void *context, const uint8_t *bytes, size_t length) {
    memcpy(device_got, bytes, length);
    device_got_length = length;
    sent++;
    any_sent = true;
}

static void expect_text(void) {
    cr_assert(device_got_length == 8 && memcmp(device_got, "light,1#", 8) == 0);
}

static bool find_road(void *context, int64_t device_id, const char *ident, struct road *road) {
    *road = (struct road){.channel = &channel,
                          .device_id = device_id,
                          .ident = IDENT,
                          .source = "127.0.0.1:1",
                          .serial = serial,
                          .codec_session = memory,
                          .send = note_bytes};
    return serial != 0;
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
    return json_pack("{s:s, s:{s:s}}", "name", "custom", "properties", "payload", text);
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
    carrier_open_as(&carrier, "t");
    carrier_go_up(&carrier);
    bus = bus_new("t", "me", carrier.outbox, &carrier.carrier);
    roll_call = roll_call_new(&carrier.loop, bus,
                              &(struct roll_call_handlers){.answered = ignore, .settled = note_settled});
    voice = (struct command_voice){.bus = bus,
                                   .outbox = carrier.outbox,
                                   .store = carrier.store,
                                   .secret = {.bytes = "of all gateways", .length = 15}};
    channel.codec = codec_find("mictrack");
    config.commands.timeout = 30;
    queue = (struct command_queue){
        .config = &config, .table = &table, .voice = &voice, .roll_call = roll_call, .roads = &roads};
    sync_ = (struct command_sync){.queue = &queue, .roll_call = roll_call, .journal = &journal};
    settle();
    text = "light,1#";
    any_sent = false;
    add_command();
    others = true;
    sent = 0;
    serial = 7;
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
    command_signature_set(entry, "devices/42", &voice.secret);
    char *json = json_dumps(entry, 0);
    command_sync_received(
        &sync_, TOPIC,
        &(struct mqtt_received){.topic = TOPIC, .payload = (void *)json, .length = strlen(json)});
    free(json);
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
    expect_text();
}

Test(command_claim, with_others_it_is_sent_when_its_entry_has_come_back) {
    command_queue_send_next(&queue, "devices/42");
    cr_assert(sent == 0 && entries("\"sent\"") == 1);
    hear("me", "queued", 0); // from before
    cr_assert(sent == 0);
    hear("me", "sent", 1);
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
    expect_text();
    hear("me", "sent", 1);
    cr_assert(sent == 1 && entries("") == 1);
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
    cr_assert(sent == 1 && command->state == COMMAND_SENT && strcmp(command->instance, "me") == 0);
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

// --- a device that moves ---

Test(command_claim, one_that_another_sent_goes_out_again_when_the_device_comes_here) {
    serial = 0;
    hear("another", "sent", 1);
    serial = 8;
    command_queue_device_talks(&queue, 42, 1, IDENT);
    cr_assert(command->unheard && command->attempts == 2);
    hear("me", "sent", 2);
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
}

// The other one hears that the device is here before it may send.
Test(command_claim, one_that_another_is_about_to_send_is_left_to_it_while_the_device_is_here) {
    hear("another", "sent", 1);
    command_queue_device_talks(&queue, 42, 1, IDENT);
    cr_assert(command->state == COMMAND_SENT && !command->unheard && command->attempts == 1);
    hear("another", "queued", 0);
    hear("me", "sent", 1);
    cr_assert(sent == 1 && command->attempts == 1);
}

// One that must not happen twice. It is on disk as sent before it is.
static void make_once(void) {
    text = "reboot,0#";
    json_decref(command->definition);
    command->definition = definition();
    command->max_attempts = 1;
    config.channels = &channel;
    config.channel_count = 1;
    cr_assert_null(command_check(command->definition, channel.codec)); // what is left out is filled in
    cr_assert(command_queue_is_once(&queue, command));
}

static void expect_sent_once(void) {
    cr_assert(command->unheard && command->attempts == 1);
    hear("me", "sent", 1);
    carrier_run_until(&carrier, &any_sent);
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
}

// It was only about to be sent there: the device was here too soon.
Test(command_claim, one_that_another_takes_back_while_the_device_is_here_goes_out) {
    make_once();
    hear("another", "sent", 1);
    command_queue_device_talks(&queue, 42, 1, IDENT);
    cr_assert(command->state == COMMAND_SENT && !command->is_back && !command->unheard);
    hear("another", "queued", 0);
    expect_sent_once();
}

Test(command_claim, one_that_another_takes_back_when_the_device_has_come_here_goes_out) {
    make_once();
    serial = 0;
    hear("another", "sent", 1);
    serial = 8;
    command_queue_device_talks(&queue, 42, 1, IDENT);
    cr_assert(command->is_back);
    cr_assert_eq(entries(""), 0); // what is said now the other one might take for a sending
    hear("another", "queued", 0);
    expect_sent_once();
}

Test(command_claim, one_that_another_does_not_take_back_may_have_been_executed) {
    make_once();
    serial = 0;
    hear("another", "sent", 1);
    serial = 8;
    command_queue_device_talks(&queue, 42, 1, IDENT);
    command_queue_sweep(&queue, clock_ticks() + 4000000);
    cr_assert_eq(command->state, COMMAND_SENT);
    command_queue_sweep(&queue, clock_ticks() + 6000000);
    cr_assert(sent == 0 && command->state == COMMAND_PROCESSED);
    cr_assert(json_is_true(json_object_get(command->result, "uncertain")));
}

// Our own word stands in the broker behind both of the other's: it is the first that counts.
Test(command_claim, one_that_another_was_first_to_claim_and_takes_back_is_sent) {
    make_once();
    command_queue_send_next(&queue, "devices/42");
    hear("another", "sent", 1);
    cr_assert(!command->unheard && !command->unwritten);
    hear("another", "queued", 0);
    expect_sent_once();
    hear("me", "sent", 1); // of the second time
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
}

// It hears that as well, and does not send.
Test(command_claim, one_that_waits_for_the_disk_is_sent_although_another_says_behind_that_it_does) {
    make_once();
    command_queue_send_next(&queue, "devices/42");
    hear("me", "sent", 1);
    answer_all();
    cr_assert(command->unwritten && !command->unheard);
    hear("another", "sent", 1);
    carrier_run_until(&carrier, &any_sent);
    cr_assert(sent == 1 && strcmp(command->instance, "me") == 0);
}

// --- a broker that refuses the entry ---

static void answer_last(enum mqtt_answer answer) {
    outbox_published(carrier.outbox, (int)carrier.count, answer, "Not authorized");
    outbox_link_ready(carrier.outbox);
}

static void begin_with(const char *state) {
    command->unshared = true;
    command_queue_publish(&queue, command);
    cr_assert(strstr(carrier_last(&carrier)->payload, state) != NULL);
}

static const char *reason_of_end(void) {
    return json_string_value(json_object_get(command->result, "reason"));
}

// Nobody else can know of it.
Test(command_claim, one_of_which_the_broker_refuses_every_entry_is_sent) {
    begin_with("\"queued\"");
    answer_last(MQTT_NEVER_TAKEN);
    command_queue_send_next(&queue, "devices/42");
    cr_assert(sent == 0 && entries("\"sent\"") == 1);
    answer_last(MQTT_NEVER_TAKEN);
    command_queue_sweep(&queue, clock_ticks());
    cr_assert(sent == 1 && command->state == COMMAND_SENT && command->attempts == 1);
    expect_text();
}

// Both are under way at once, and the answers come when both have been published.
Test(command_claim, one_of_which_the_broker_refuses_every_entry_is_sent_at_once) {
    begin_with("\"queued\"");
    command_queue_send_next(&queue, "devices/42");
    answer_last(MQTT_NEVER_TAKEN);
    cr_assert_eq(entries("\"sent\""), 1);
    answer_last(MQTT_NEVER_TAKEN);
    command_queue_sweep(&queue, clock_ticks());
    cr_assert(sent == 1 && command->state == COMMAND_SENT);
}

// The others know of it, and may send it.
Test(command_claim, one_whose_sending_cannot_be_said_ends_and_the_next_one_goes_out) {
    config.commands.intake = true;
    begin_with("\"queued\"");
    answer_all();
    command_queue_send_next(&queue, "devices/42");
    answer_last(MQTT_NEVER_TAKEN);
    command_queue_sweep(&queue, clock_ticks());
    cr_assert(sent == 0 && command->state == COMMAND_PROCESSED && command->attempts == 0);
    cr_assert_str_eq(reason_of_end(), "not sent: the broker refuses its queue entry, without which another "
                                      "gateway might send it too");
    cr_assert_null(command_table_target(&table, "devices/42"));
    config.commands.intake = false;
}

// Of the rest the intake says how it ends.
Test(command_claim, one_whose_sending_another_than_the_intake_cannot_say_is_emptied) {
    begin_with("\"queued\"");
    answer_all();
    command_queue_send_next(&queue, "devices/42");
    answer_last(MQTT_NEVER_TAKEN);
    command_queue_sweep(&queue, clock_ticks());
    answer_all();
    cr_assert(sent == 0 && command->state == COMMAND_CANCELED);
    cr_assert_str_eq(carrier_last(&carrier)->payload, "");
    cr_assert_eq(entries("\"processed\""), 0);
}

// Over MQTT 3.1.1 a broker cannot say that it refuses something.
Test(command_claim, one_whose_entry_the_broker_takes_and_never_gives_back_ends) {
    config.commands.intake = true;
    for (int i = 1; i <= 3; i++) {
        command_queue_send_next(&queue, "devices/42");
        answer_all();
        answer_all();
        cr_assert(command->state == COMMAND_SENT && command->unheard);
        command_queue_sweep(&queue, clock_ticks() + i * 11000000);
    }
    cr_assert(sent == 0 && command->state == COMMAND_PROCESSED);
    cr_assert(strstr(reason_of_end(), "does not give back") != NULL);
    config.commands.intake = false;
}

// --- a device whose answers tell by a number what they answer ---

// The number that the protocol gives to each command of a connection, and the next command there gets the next one.
static void expect_frame(unsigned number) {
    uint64_t fresh[sizeof memory / sizeof memory[0]] = {0};
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_setting setting = {.transport = CODEC_TCP, .ident = IDENT};
    struct codec_expectation expectation;
    struct codec_writer writer;
    for (unsigned i = 0; i < number; i++) {
        writer = (struct codec_writer){.bytes = bytes, .capacity = sizeof bytes};
        char *fault =
            command_encode(command->definition, channel.codec, fresh, &setting, &writer, &expectation);
        cr_assert_null(fault);
    }
    cr_assert_str_eq(command->expectation.key, expectation.key);
    cr_assert(device_got_length == writer.length && memcmp(device_got, bytes, writer.length) == 0,
              "the device did not get %s", expectation.key);
}

static void ask_by_number(void) {
    channel.codec = codec_find("magicyo");
    cr_assert(channel.codec->session_size <= sizeof memory);
    memset(memory, 0, sizeof memory);
    json_decref(command->definition);
    command->definition = json_pack("{s:s, s:{s:[i]}}", "name", "parameters.get", "properties", "ids", 1);
    command_queue_send_next(&queue, "devices/42");
}

static void hear_own_word(void) {
    struct carried word = *carrier_last(&carrier);
    cr_assert_str_eq(word.topic, "t/state/gw/" TOPIC);
    command_sync_received(
        &sync_, TOPIC,
        &(struct mqtt_received){.topic = TOPIC, .payload = word.payload, .length = strlen(word.payload)});
}

Test(command_claim, what_the_entry_says_is_what_the_device_gets) {
    ask_by_number();
    cr_assert(entries("\"frame 1\"") == 1);
    hear_own_word();
    cr_assert_eq(sent, 1);
    expect_frame(1);
}

Test(command_claim, on_another_connection_it_is_said_anew_and_then_sent) {
    ask_by_number();
    serial = 8;
    memset(memory, 0, sizeof memory);
    hear_own_word();
    cr_assert(sent == 0 && command->unheard && command->attempts == 1);
    answer_all();
    answer_all();
    cr_assert(entries("\"sent\"") == 2);
    hear_own_word();
    cr_assert_eq(sent, 1);
    expect_frame(1);
}

// --- time ---

static void let_pass(int64_t microseconds) {
    command->answer_at -= microseconds;
    command->answer_by -= microseconds;
}

Test(command_claim, the_time_for_the_answer_begins_when_it_is_sent) {
    command_queue_send_next(&queue, "devices/42");
    let_pass(20000000);
    hear("me", "sent", 1);
    cr_assert(sent == 1 && command->answer_at - clock_ticks() > 25000000);
    cr_assert(command->answer_by - clock_now() > 25000000);
    answer_all();
    cr_assert(entries("\"sent\"") == 2); // the others have to know as well
    hear("me", "sent", 1);
    answer_all();
    cr_assert(sent == 1 && entries("\"sent\"") == 2);
}

Test(command_claim, one_that_has_expired_meanwhile_is_not_sent) {
    config.commands.intake = true;
    command_queue_send_next(&queue, "devices/42");
    command->expires_at = clock_ticks() - 1;
    hear("me", "sent", 1);
    cr_assert(sent == 0 && command->state == COMMAND_QUEUED && command->attempts == 0);
    command_queue_sweep(&queue, clock_ticks());
    cr_assert(sent == 0 && command->state == COMMAND_EXPIRED);
    config.commands.intake = false;
}

// However long the device may take for its answer.
Test(command_claim, a_word_that_does_not_come_back_is_said_again_soon) {
    command->timeout = 3600;
    command_queue_send_next(&queue, "devices/42");
    command_queue_sweep(&queue, clock_ticks() + 11000000);
    answer_all();
    answer_all();
    cr_assert(sent == 0 && command->unheard && entries("\"sent\"") == 2);
    hear("me", "sent", 1);
    cr_assert_eq(sent, 1);
}

// --- the marker ---

static void note_flag(void *context, bool ok) {
    *(bool *)context = ok;
}

static size_t carried(const char *topic_has) {
    size_t count = 0;
    for (size_t i = 0; i < carrier.count; i++)
        count += strstr(carrier.carried[i].topic, topic_has) != NULL;
    return count;
}

// A gateway that was killed then would know no more what the last one said of it.
Test(command_claim, the_marker_waits_until_what_came_again_is_decided) {
    config.commands.intake = true;
    command->confirmed = false;
    command_table_leave_target(&table, command);
    HASH_DEL(table.by_id, command);
    command->twin = ID - 1;
    command_table_add(&table, command);
    command_sync_settled(&sync_);
    answer_all();
    cr_assert(carried("me/queue") == 0 && entries("") == 0, "it is not known yet what it is");
    command_table_is_no_twin(&table, command);
    command_sync_mark(&sync_);
    answer_all();
    cr_assert_eq(carried("me/queue"), 1);
    config.commands.intake = false;
}

static void hear_marker(const char *payload) {
    static const char topic[] = "instances/me/queue";
    command_sync_received(
        &sync_, topic,
        &(struct mqtt_received){.topic = topic, .payload = (void *)payload, .length = strlen(payload)});
}

static void publish_own_marker(int64_t last_id) {
    config.commands.intake = true;
    table.last_id = last_id;
    command_sync_settled(&sync_);
    answer_all();
    config.commands.intake = false;
}

static void hear_own_markers(void) {
    for (size_t i = carrier.count; i > 0; i--)
        if (strcmp(carrier.carried[i - 1].topic, "t/state/gw/instances/me/queue") == 0)
            hear_marker(carrier.carried[i - 1].payload);
}

static int64_t attested_on_disk(void) {
    struct command_table read = {0};
    struct command_queue its = {.config = &config, .table = &read, .voice = &voice, .roll_call = roll_call};
    struct command_sync sync = {.queue = &its, .roll_call = roll_call, .journal = &journal};
    bool written = false;
    store_when_written(carrier.store, note_flag, &written);
    carrier_run_until(&carrier, &written);
    command_sync_start(&sync);
    command_table_clear(&read);
    return read.attested;
}

// It tells later that a broker fell back, also to another run.
Test(command_claim, a_marker_that_has_come_back_is_remembered) {
    publish_own_marker(ID);
    cr_assert_eq(table.attested, 0, "the broker may not have it yet");
    hear_own_markers();
    cr_assert_eq(table.attested, ID);
    cr_assert_eq(attested_on_disk(), ID);
}

// The disk is not touched where there are no commands.
Test(command_claim, a_marker_from_before_the_first_command_is_not_remembered) {
    publish_own_marker(0);
    cr_assert_eq(sync_.marked, 1);
    hear_own_markers();
    cr_assert_eq(table.attested, 0);
    cr_assert_eq(attested_on_disk(), 0);
}

Test(command_claim, a_marker_that_is_not_ours_or_says_more_says_nothing) {
    char payload[128];
    publish_own_marker(ID);
    hear_marker("{\"store\":\"another\",\"through\":5}");
    cr_assert_eq(table.attested, 0);
    snprintf(payload, sizeof payload, "{\"store\":\"%s\",\"through\":%lld}", store_marker(carrier.store),
             ID + 1LL);
    hear_marker(payload);
    cr_assert_eq(table.attested, 0);
}
