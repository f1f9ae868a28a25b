// What the queue of commands does with as many commands as may wait: how much work it is, in all and in one turn of the
// loop, in counts.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/queue.h"
#include "gateway/commands/sync.h"
#include "tests/allocations.h"
#include "tests/carrier.h"

#define DEVICES    100 // that wait for as many commands as there may be
#define ENDED      200
#define AT_ONCE    50 // commands of which something is published in a turn
#define MANY       1000
#define TOMBSTONES 100000 // that are kept
#define HOUR       3600000000LL

static struct carrier carrier;
static struct bus *bus;
static struct roll_call *roll_call;
static struct command_voice voice;
static struct command_table table;
static struct command_queue the_queue;
static struct config config;
static struct config_channel channel = {.id = 1, .name = "mictrack"};
static size_t finds; // how often a device was looked for
static bool reachable, settled;

static void send_to_nobody(void *context, const uint8_t *bytes, size_t length) {
}

static bool find_road(void *context, int64_t device_id, const char *ident, struct road *road) {
    finds++;
    if (!reachable)
        return false;
    *road = (struct road){.channel = &channel,
                          .device_id = device_id,
                          .ident = "866425031361423",
                          .source = "127.0.0.1:1",
                          .serial = 7,
                          .send = send_to_nobody};
    return true;
}

static bool has_others(void *context) {
    return false;
}

static const struct command_roads roads = {.find = find_road, .has_others = has_others};

static void ignore(void *context) {
}

static void note_settled(void *context) {
    settled = true;
}

// What the broker retains has been heard. From then on all that is published waits, and can be counted.
static void roll_call_settle(void) {
    struct mqtt_received question = {.topic = ""};
    carrier_go_up(&carrier);
    roll_call_begin(roll_call);
    roll_call_ask(roll_call);
    question.payload = carrier_last(&carrier)->payload;
    question.length = strlen(question.payload);
    roll_call_received(roll_call, "instances/me/sync", &question);
    carrier_run_until(&carrier, &settled);
    carrier_answer_all(&carrier);
    carrier_go_down(&carrier);
}

static void set_up(void) {
    carrier_open(&carrier);
    bus = bus_new("trackbus", "me", carrier.outbox, &carrier.carrier);
    roll_call = roll_call_new(&carrier.loop, bus,
                              &(struct roll_call_handlers){.answered = ignore, .settled = note_settled});
    voice = (struct command_voice){.bus = bus, .outbox = carrier.outbox, .store = carrier.store};
    channel.codec = codec_find("mictrack");
    config.commands.intake = true;
    the_queue = (struct command_queue){
        .config = &config, .table = &table, .voice = &voice, .roll_call = roll_call, .roads = &roads};
    finds = 0;
    reachable = true;
}

static void tear_down(void) {
    roll_call_stop(roll_call);
    carrier_close(&carrier);
    command_queue_clear(&the_queue);
    command_table_clear(&table); // until then the outbox knows who waits
    roll_call_free(roll_call);
    bus_free(bus);
}

TestSuite(command_sweep, .init = set_up, .fini = tear_down);

static struct command_journal journal; // empty

static struct command_queue *own_queue(void) {
    return &the_queue;
}

// A command for a connected device that answers nothing: the first one is out, the others wait behind it.
static void add(int64_t id, int64_t device_id, bool out) {
    char key[32];
    struct command *command = calloc(1, sizeof *command);
    snprintf(key, sizeof key, "devices/%lld", (long long)device_id);
    command->id = id;
    command->key = strdup(key);
    command->device_id = device_id;
    command->definition = json_pack("{s:s, s:{}}", "name", "rconf", "properties");
    command->max_attempts = 3;
    command->confirmed = true;
    command->expires_at = clock_ticks() + HOUR;
    command->state = out ? COMMAND_SENT : COMMAND_QUEUED;
    command->attempts = out;
    command->sent_to = out ? 7 : 0;
    command->answer_at = clock_ticks() + HOUR;
    command_table_add(&table, command);
}

// All portions of a sweep, and what comes of it.
static void sweep_all(struct command_queue *queue) {
    while (command_queue_sweep(queue, clock_ticks()))
        ;
    while (command_queue_go_on(queue))
        ;
}

Test(command_sweep, costs_as_much_as_there_are_devices) {
    for (int64_t device = 1; device <= DEVICES; device++)
        for (int64_t i = 0; i < COMMANDS_PER_DEVICE_MAX; i++)
            add(device * 10000 + i, device, i == 0);
    sweep_all(own_queue());
    cr_assert(finds <= 5 * DEVICES, "%zu times a device was looked for", finds);
    cr_assert(finds > 0);
    cr_assert(table.pending == DEVICES * COMMANDS_PER_DEVICE_MAX);
}

// An entry that the outbox has no room for is on disk already: while that lasts nothing is written again.
Test(command_sweep, does_nothing_for_entries_while_the_outbox_is_full) {
    for (int64_t i = 0; i < COMMANDS_PER_DEVICE_MAX; i++) {
        add(i + 1, 1, i == 0);
        command_table_find(&table, i + 1)->unsaid = true;
    }
    carrier_fill(&carrier, 0);
    size_t before = allocations_count();
    command_queue_sweep(own_queue(), clock_ticks());
    cr_assert(allocations_count() - before < COMMANDS_PER_DEVICE_MAX / 10, "%zu allocations",
              allocations_count() - before);
}

// --- ends ---

static struct command *add_ended(int64_t id) {
    struct command *command = calloc(1, sizeof *command);
    command->id = id;
    command->key = strdup("devices/1");
    command->device_id = 1;
    command->state = COMMAND_PROCESSED;
    command_table_add(&table, command);
    return command;
}

static void add_ends(void) {
    for (int64_t i = 1; i <= ENDED; i++) {
        struct command *command = add_ended(i);
        command->definition = json_pack("{s:s}", "name", "rconf");
        command->result = json_pack("{s:b}", "executed", 1);
        command->response_topic = strdup("answers/1");
        command->end_written = true;
    }
}

static void sweep_often(void) {
    for (int i = 0; i < 100; i++)
        command_queue_sweep(own_queue(), clock_ticks());
}

// The entry as it ended, the log entry, the result, the emptied entry; whoever looks how often.
Test(command_sweep, says_each_end_once_while_the_broker_is_away) {
    add_ends();
    sweep_often();
    cr_assert(outbox_count(carrier.outbox) == 4 * ENDED, "%zu messages", outbox_count(carrier.outbox));
}

Test(command_sweep, says_no_end_while_the_outbox_is_full) {
    carrier_fill(&carrier, 0);
    size_t before = outbox_count(carrier.outbox);
    add_ends();
    sweep_often();
    cr_assert(outbox_count(carrier.outbox) == before, "%zu more", outbox_count(carrier.outbox) - before);
}

// The oldest go, although their time is not over.
Test(command_sweep, forgets_the_oldest_of_too_many_that_have_ended) {
    for (int64_t i = 1; i <= TOMBSTONES + 50; i++)
        add_ended(i)->forget_at = clock_ticks() + HOUR;
    sweep_often();
    cr_assert(HASH_COUNT(table.by_id) == TOMBSTONES, "%u are known", HASH_COUNT(table.by_id));
    cr_assert(command_table_find(&table, 50) == NULL && command_table_find(&table, 51) != NULL);
}

static void note_written(void *context, bool ok) {
    *(bool *)context = ok;
}

// After a crash it would be sent again otherwise, although somebody was told how it ended.
Test(command_sweep, an_end_is_published_once_it_is_on_disk) {
    bool written = false;
    add(1, 1, false);
    command_queue_cancel(own_queue(), command_table_find(&table, 1));
    cr_assert(outbox_count(carrier.outbox) == 0);
    store_when_written(carrier.store, note_written, &written);
    carrier_run_until(&carrier, &written);
    cr_assert(outbox_count(carrier.outbox) == 3, "%zu messages", outbox_count(carrier.outbox));
}

// Numbers of frames begin anew with each connection: of two that wait for the same answer it is the one that was
// sent on this connection.
Test(command_sweep, an_answer_is_that_of_the_command_sent_on_its_connection) {
    const struct road here = {.channel = &channel, .ident = "866425031361423", .device_id = 1, .serial = 7};
    const struct codec_answer answer = {.key = "5", .outcome = CODEC_SUCCESS, .text = "ok"};
    for (int64_t id = 1; id <= 3; id++) {
        add(id, 1, true);
        strcpy(command_table_find(&table, id)->expectation.key, "5");
        command_table_find(&table, id)->sent_to = id == 2 ? 7 : 6;
    }
    command_queue_answered(own_queue(), &here, &answer);
    cr_assert(command_has_ended(command_table_find(&table, 2)));
    cr_assert(!command_has_ended(command_table_find(&table, 1)));
    cr_assert(!command_has_ended(command_table_find(&table, 3)));
}

// --- in portions ---

// All but the first one wait behind it.
static void add_many(void) {
    for (int64_t i = 1; i <= MANY; i++)
        add(i, 1, i == 1);
}

Test(command_sweep, ends_a_few_of_many_that_have_expired_in_a_turn) {
    struct command_queue *queue = own_queue();
    size_t before = MANY, turns = 0;
    reachable = false;
    voice.counts = NULL;
    add_many();
    roll_call_settle();
    for (int64_t i = 1; i <= MANY; i++)
        command_table_find(&table, i)->expires_at = clock_ticks() - 1;
    for (bool more = true; more; turns++, before = table.pending) {
        more = command_queue_sweep(queue, clock_ticks());
        cr_assert(before - table.pending <= AT_ONCE, "%zu in one turn", before - table.pending);
    }
    cr_assert_eq(table.pending, 1, "only the one that was sent waits for its answer");
    cr_assert(turns >= MANY / AT_ONCE);
}

// A device that was removed takes all of its commands with it, but not those that come later.
Test(command_sweep, cancels_a_few_of_a_removed_device_s_many_in_a_turn) {
    struct command_queue *queue = own_queue();
    size_t before = MANY + 1;
    add_many();
    table.last_id = MANY;
    command_queue_cancel_all(queue, "devices/1");
    add(MANY + 1, 1, false);
    cr_assert_eq(table.pending, before, "%zu in the turn of the order", before - table.pending);
    for (bool more = true; more; before = table.pending) {
        more = command_queue_go_on(queue);
        cr_assert(before - table.pending <= AT_ONCE, "%zu in one turn", before - table.pending);
    }
    cr_assert_eq(table.pending, 1, "%zu wait", table.pending);
    cr_assert(!command_has_ended(command_table_find(&table, MANY + 1)));
}

// What the broker may have delivered again has no limit for a device.
Test(command_sweep, goes_on_behind_a_device_with_more_than_a_turn_is_for) {
    struct command_queue *queue = own_queue();
    reachable = false;
    roll_call_settle();
    for (int64_t i = 1; i <= 3 * COMMAND_EFFORT_MAX; i++)
        add(i, 1, false);
    add(5 * COMMAND_EFFORT_MAX, 2, false);
    command_table_find(&table, 5 * COMMAND_EFFORT_MAX)->expires_at = clock_ticks() - 1;
    for (int turns = 0; table.pending > 3 * COMMAND_EFFORT_MAX; turns++) {
        cr_assert(turns < 20, "what has expired behind it never ends");
        command_queue_sweep(queue, clock_ticks());
    }
    while (command_queue_sweep(queue, clock_ticks())) // to its end
        ;
}

Test(command_sweep, looks_at_a_few_of_many_devices_in_a_turn_when_the_broker_has_said_all) {
    struct command_sync sync = {.queue = own_queue(), .roll_call = roll_call, .journal = &journal};
    size_t due = 0;
    for (int64_t i = 1; i <= 4 * COMMAND_EFFORT_MAX; i++)
        add(i, i, false);
    reachable = false;
    roll_call_settle();
    command_sync_settled(&sync);
    while (command_sync_go_on(&sync))
        ;
    for (const struct command_target *target = table.targets; target != NULL; target = target->hh.next)
        due += target->due;
    cr_assert(finds + due <= COMMAND_EFFORT_MAX, "%zu in one turn", finds + due);
    for (bool more = true; more;) {
        size_t before = finds;
        more = command_queue_go_on(sync.queue);
        cr_assert(finds - before <= COMMAND_EFFORT_MAX, "%zu in one turn", finds - before);
    }
    cr_assert_eq(finds, 4 * COMMAND_EFFORT_MAX, "%zu were looked at", finds);
}

static void expect_a_few_more(size_t *before) {
    size_t count = outbox_count(carrier.outbox);
    cr_assert(count - *before <= AT_ONCE, "%zu in one turn", count - *before);
    *before = count;
}

static void go_on_to_the_end(struct command_sync *sync, size_t *before) {
    for (bool more = true; more;) {
        more = command_sync_go_on(sync);
        expect_a_few_more(before);
    }
}

Test(command_sweep, puts_right_a_few_of_many_that_were_overwritten_in_a_turn) {
    struct command_sync sync = {
        .queue = own_queue(), .roll_call = roll_call, .journal = &journal, .any_spoiled = true};
    add_many();
    roll_call_settle();
    size_t first = outbox_count(carrier.outbox), before = first;
    for (int64_t i = 1; i <= MANY; i++)
        command_table_find(&table, i)->spoiled = true;
    config.commands.intake = false; // it would publish its marker too
    command_sync_mark(&sync);
    expect_a_few_more(&before);
    cr_assert(before > first);
    go_on_to_the_end(&sync, &before);
    cr_assert_eq(before - first, MANY);
    cr_assert(!sync.any_spoiled && !command_table_find(&table, MANY)->spoiled);
}

Test(command_sweep, gives_back_a_few_of_many_that_the_broker_lost_in_a_turn) {
    struct command_sync sync = {.queue = own_queue(), .roll_call = roll_call, .journal = &journal};
    struct command *unheard;
    reachable = false;
    add_many();
    roll_call_settle();
    size_t first = outbox_count(carrier.outbox), before = first;
    for (int64_t i = 1; i <= MANY; i++)
        command_table_find(&table, i)->confirmed = false;
    command_sync_settled(&sync);
    expect_a_few_more(&before);
    // What is dropped or comes meanwhile is no trap.
    unheard = table.by_id;
    while (unheard->confirmed)
        unheard = unheard->hh.next;
    command_table_drop(&table, unheard);
    cr_assert(sync.queue->unsettled, "what is not looked at yet may have been canceled");
    go_on_to_the_end(&sync, &before);
    cr_assert_eq(before - first, MANY - 1 + 1, "%zu: not each entry but one, and the marker behind them",
                 before - first);
    cr_assert(!sync.queue->unsettled);
}

// Each entry that comes of a device's many asks for it.
Test(command_sweep, looks_at_the_many_commands_of_a_device_once_for_all_who_ask) {
    struct command_queue *queue = own_queue();
    reachable = false;
    add_many();
    for (int i = 0; i < MANY; i++)
        command_queue_send_next(queue, "devices/1");
    cr_assert_eq(finds, 0, "%zu times a device was looked for", finds);
    while (command_queue_go_on(queue))
        ;
    cr_assert_eq(finds, 1, "%zu times a device was looked for", finds);
}

// Of a protocol with numbers all go out, one behind the other.
Test(command_sweep, sends_a_few_of_many_in_a_turn) {
    static struct codec many_at_a_time;
    struct command_queue *queue = own_queue();
    size_t out = 1;
    many_at_a_time = *channel.codec;
    many_at_a_time.one_at_a_time = false;
    channel.codec = &many_at_a_time;
    config.commands.timeout = 30;
    add_many();
    command_queue_send_next(queue, "devices/1");
    for (bool more = true; more;) {
        more = command_queue_go_on(queue);
        size_t now = 0;
        for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
            now += command->state == COMMAND_SENT;
        cr_assert(now - out <= AT_ONCE, "%zu in one turn", now - out);
        out = now;
    }
    cr_assert_eq(out, MANY);
}

// What the broker had and has no longer was canceled; what it never had is lost.
Test(command_sweep, what_the_broker_vouches_for_and_does_not_have_was_canceled) {
    struct command_sync sync = {
        .queue = own_queue(), .roll_call = roll_call, .journal = &journal, .vouched = 2};
    reachable = false;
    for (int64_t id = 1; id <= 3; id++) {
        add(id, 1, false);
        command_table_find(&table, id)->confirmed = false;
    }
    command_sync_settled(&sync);
    cr_assert(command_table_find(&table, 1)->state == COMMAND_CANCELED);
    cr_assert(command_table_find(&table, 2)->state == COMMAND_CANCELED);
    cr_assert(!command_has_ended(command_table_find(&table, 3)));
}
