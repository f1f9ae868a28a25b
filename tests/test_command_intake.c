// Taking in commands: what a broker delivers again late, when it has said all that it retains, is taken in once, for a
// minute; and a publish with many commands is taken in from the journal, some in each turn of the loop.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/intake.h"
#include "gateway/commands/parse.h"
#include "gateway/commands/sync.h"
#include "tests/carrier.h"

#define MINUTE 60000000LL
#define REBOOT "{\"name\":\"reboot\"}"

static struct carrier carrier;
static struct bus *bus;
static struct roll_call *roll_call;
static struct registry *registry;
static struct command_voice voice;
static struct command_table table;
static struct command_queue queue;
static struct command_intake intake;
static struct command_journal journal;
static struct config config;
static size_t held, enough, published; // as the link is told
static struct config_channel channel = {.id = 1, .name = "mictrack"};

static bool find_no_road(void *context, int64_t device_id, const char *ident, struct road *road) {
    return false;
}

static bool know_nobody(void *context, int64_t device_id, const char **ident, const struct codec **codec) {
    return false;
}

static bool know_all(void *context, int64_t device_id) {
    return true;
}

static bool is_alone(void *context) {
    return false;
}

static const struct command_roads roads = {
    .find = find_no_road, .whois = know_nobody, .knows = know_all, .has_others = is_alone};

static void ignore(void *context) {
}

static void hold(void *context) {
    held++;
}

static void release(void *context) {
    held--;
}

static void note_enough(void *context) {
    enough++;
}

// A broker that answers nothing.
static enum mqtt_publish_result count_published(void *context, const struct mqtt_publish *publish, int *mid) {
    *mid = (int)++published;
    return MQTT_SENT;
}

static void set_up(void) {
    carrier_open_as(&carrier, "t");
    carrier.carrier.hold = hold;
    carrier.carrier.release = release;
    carrier.carrier.enough = note_enough;
    carrier.carrier.publish = count_published;
    held = enough = published = 0;
    carrier_go_up(&carrier);
    bus = bus_new("t", "me", carrier.outbox, &carrier.carrier);
    roll_call = roll_call_new(&carrier.loop, bus,
                              &(struct roll_call_handlers){.answered = ignore, .settled = ignore});
    registry = registry_new(calloc(1, sizeof(struct config_devices)), UNKNOWN_ACCEPT, 10);
    channel.codec = codec_find("mictrack");
    config.channels = &channel;
    config.channel_count = 1;
    config.commands.intake = true;
    config.commands.ttl = 3600;
    config.commands.max_attempts = 3;
    voice = (struct command_voice){.bus = bus,
                                   .outbox = carrier.outbox,
                                   .store = carrier.store,
                                   .secret = {.bytes = "of all gateways", .length = 15}};
    queue = (struct command_queue){
        .config = &config, .table = &table, .voice = &voice, .roll_call = roll_call, .roads = &roads};
    intake = (struct command_intake){
        .queue = &queue, .registry = registry, .redelivery = redelivery_new(), .journal = &journal};
    command_intake_connected(&intake, false);
    command_intake_settled(&intake, 0);
}

static void tear_down(void) {
    roll_call_stop(roll_call);
    carrier_close(&carrier);
    command_intake_clear(&intake);
    command_queue_clear(&queue);
    command_table_clear(&table);
    redelivery_free(intake.redelivery);
    registry_free(registry);
    roll_call_free(roll_call);
    bus_free(bus);
}

TestSuite(command_intake, .init = set_up, .fini = tear_down);

static size_t known(void) {
    return HASH_COUNT(table.by_id);
}

static void take_for(const char *topic, int mid, const char *payload) {
    command_intake_take(
        &intake, &(struct mqtt_received){
                     .topic = topic, .payload = (void *)payload, .length = strlen(payload), .mid = mid});
}

static void take(int mid, const char *payload) {
    take_for("t/command/gw/devices/42", mid, payload);
}

// The broker knows that what came before was acknowledged: its marker says so.
static void resume(void) {
    command_intake_connected(&intake, true);
    command_intake_settled(&intake, INT64_MAX);
}

static void take_and_end(int mid, const char *payload) {
    take(mid, payload);
    cr_assert_eq(known(), 1);
    command_queue_bury(&queue, table.by_id, COMMAND_PROCESSED);
}

Test(command_intake, one_that_must_not_happen_twice_is_taken_in_once_when_it_has_ended) {
    take_and_end(7, REBOOT);
    resume();
    take(7, REBOOT);
    cr_assert_eq(known(), 1);
    take(7, REBOOT); // it is delivered again once, not twice
    cr_assert_eq(known(), 2);
}

// Packet ids go round.
Test(command_intake, one_that_may_be_meant_again_is_taken_in_again) {
    take_and_end(7, "where?");
    resume();
    take(7, "where?");
    cr_assert_eq(known(), 2);
    command_intake_connected(&intake, true);
    take(7, "where?");
    command_intake_settled(&intake, INT64_MAX);
    cr_assert_eq(known(), 3);
    cr_assert_eq(table.twins, 0);
}

Test(command_intake, one_that_must_not_happen_twice_is_taken_in_once_while_it_waits) {
    take(7, REBOOT);
    resume();
    take(7, REBOOT);
    cr_assert_eq(known(), 1);
}

// Of those that must not happen twice, too.
Test(command_intake, another_one_is_new) {
    take_and_end(7, REBOOT);
    resume();
    take(8, REBOOT);
    take(7, "{\"name\":\"factoryreset\"}");
    cr_assert_eq(known(), 3);
}

Test(command_intake, one_that_waits_is_new) {
    take(7, "where?");
    resume();
    take(7, "where?");
    cr_assert_eq(known(), 2);
}

Test(command_intake, after_a_minute_all_are_new) {
    take_and_end(7, REBOOT);
    take(8, REBOOT);
    resume();
    command_intake_sweep(&intake, clock_ticks() + MINUTE / 2, INT64_MAX);
    take(8, REBOOT);
    cr_assert_eq(known(), 2, "it comes again");
    command_intake_sweep(&intake, clock_ticks() + MINUTE, INT64_MAX);
    take(7, REBOOT);
    cr_assert_eq(known(), 3);
}

Test(command_intake, what_came_long_before_the_connection_does_not_count) {
    take_and_end(7, REBOOT);
    resume();
    intake.recent = table.by_id->id;
    take(7, REBOOT);
    cr_assert_eq(known(), 2);
}

// --- many commands in one publish ---

#define ARRAY   1000
#define PORTION 50
#define BEHIND  128 // messages beyond which no new command is announced

static char *array_of(int count, const char *name) {
    char *text = malloc((size_t)count * 32 + 2), *end = text;
    for (int i = 0; i < count; i++)
        end += sprintf(end, "%c{\"name\":\"%s\",\"priority\":%d}", i == 0 ? '[' : ',', name, i / 10);
    strcpy(end, "]");
    return text;
}

static void take_some(int mid, int count, const char *name) {
    char *text = array_of(count, name);
    take(mid, text);
    free(text);
}

static void take_array(int mid, const char *name) {
    take_some(mid, ARRAY, name);
}

static void run_until_written(void) {
    while (intake.fresh != NULL)
        uv_run(&carrier.loop, UV_RUN_ONCE);
}

static void take_in_all(void) {
    while (command_intake_go_on(&intake))
        ;
}

// Each place of a publish, of the command at which nothing else came.
static void expect_each_once(size_t count) {
    bool has[ARRAY + 1] = {false};
    cr_assert_eq(known(), count, "%zu of %zu are known", known(), count);
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next) {
        cr_assert(!has[command->part], "the %dth is there twice", command->part);
        has[command->part] = true;
    }
}

// What was acknowledged is on disk, and holds nobody up.
Test(command_intake, of_a_publish_with_many_some_are_taken_in_in_each_turn) {
    size_t turns = 0, before = 0;
    take_array(7, "rconf");
    cr_assert_eq(held, 1, "its acknowledgement must wait for the disk");
    run_until_written();
    cr_assert_eq(held, 0);
    for (bool more = true; more; turns++, before = known()) {
        more = command_intake_go_on(&intake);
        cr_assert(known() - before <= PORTION);
        cr_assert_eq(held, 0, "reports wait for commands that are acknowledged");
    }
    cr_assert_eq(turns, ARRAY / PORTION);
    expect_each_once(ARRAY);
    run_until_written();
    const struct command *command = table.by_id;
    for (int i = 0; i < ARRAY; i++, command = command->hh.next)
        cr_assert(command->priority == i / 10 && command->created == table.by_id->created);
}

Test(command_intake, what_comes_behind_many_for_the_same_device_stays_behind_them) {
    take_some(7, 500, "rconf");
    take(8, "where?");
    take_for("t/command/gw/devices/43", 9, "where?");
    cr_assert_eq(known(), 1, "another device does not wait for them");
    take_in_all();
    cr_assert_eq(known(), 500 + 2);
    const struct command *last = command_table_target(&table, "devices/42")->commands->prev;
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        cr_assert(command->device_id == 43 || command->id <= last->id);
    cr_assert_str_eq(command_name(last), "custom");
    run_until_written();
}

Test(command_intake, of_many_that_were_not_taken_in_yet_all_are_canceled_with_their_device) {
    take_array(7, "rconf");
    command_intake_go_on(&intake);
    command_journal_cancel(&journal, queue.voice, "devices/42");
    command_queue_cancel_all(&queue, "devices/42");
    take(8, "where?");
    take_in_all();
    for (bool more = true; more;)
        more = command_queue_go_on(&queue);
    cr_assert_eq(known(), ARRAY + 1);
    cr_assert_eq(table.pending, 1, "%zu wait", table.pending);
    while (held > 0 || table.ending == NULL)
        uv_run(&carrier.loop, UV_RUN_ONCE);
    run_until_written();
}

Test(command_intake, of_many_that_are_nothing_valid_one_is_rejected_and_none_kept) {
    char *text = array_of(ARRAY, "rconf");
    text[strlen(text) - 1] = '}';
    take(7, text);
    free(text);
    take_in_all();
    cr_assert_eq(known(), 0);
    cr_assert_eq(journal.count, 0);
    cr_assert(outbox_count(carrier.outbox) > 0, "nobody hears of it");
    run_until_written();
}

Test(command_intake, how_many_a_publish_holds_is_known_before_it_is_parsed) {
    static const char *const payloads[] = {"where?",
                                           "[1]",
                                           " [1, 2 ,{\"a\":[1,2,3],\"b\":{\"c\":1,\"d\":2}}]",
                                           "[\"a,b\",\"\\\",[{\",\"\\\\\",[[1,2],3]]",
                                           "{\"name\":\"x\",\"meta\":[1,2]}",
                                           "\"one, two\""};
    for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++) {
        char *fault = NULL;
        json_t *commands = command_parse(payloads[i], strlen(payloads[i]), &fault);
        cr_assert(commands != NULL, "%s: %s", payloads[i], fault);
        cr_assert_eq(command_count(payloads[i], strlen(payloads[i])), json_array_size(commands), "%s",
                     payloads[i]);
        json_decref(commands);
    }
    cr_assert_eq(command_count("[\"", 2), 1, "nothing is read behind its end");
    cr_assert_eq(command_count("[\"\\", 3), 1);
}

// --- the journal's bounds ---

static void expect_held_until_room(void) {
    cr_assert(enough > 0, "nothing more is to be read now");
    run_until_written();
    cr_assert_eq(held, 1, "the broker must wait");
    for (size_t count = journal.count; journal.count == count;) {
        cr_assert_eq(held, 1);
        command_intake_go_on(&intake);
    }
    cr_assert_eq(held, 0, "there is room again");
    run_until_written();
}

Test(command_intake, beyond_so_many_publishes_the_broker_waits) {
    for (int i = 1; i <= COMMAND_JOURNAL_MAX; i++) {
        cr_assert(!command_journal_is_full(&journal));
        take_some(i, PORTION + 1, "rconf");
    }
    cr_assert_eq(journal.waiting, COMMAND_JOURNAL_MAX * (PORTION + 1));
    expect_held_until_room();
}

Test(command_intake, beyond_so_many_bytes_of_publishes_the_broker_waits) {
    static char text[250001];
    for (int i = 1; i <= 60; i++)
        memcpy(text + strlen(text), i == 1 ? "[1" : ",1", 3);
    memset(text + strlen(text), ' ', sizeof text - 2 - strlen(text));
    strcat(text, "]");
    for (int i = 1; !command_journal_is_full(&journal); i++) {
        cr_assert(i <= 68);
        take(i, text);
    }
    cr_assert(journal.bytes < COMMAND_JOURNAL_BYTES_MAX + (1 << 18));
    expect_held_until_room();
}

// Strangers make log entries as they like, and a broker may refuse other topics for long.
Test(command_intake, log_entries_that_wait_hold_up_no_command) {
    for (int i = 0; i < 1000; i++)
        outbox_put(carrier.outbox,
                   &(struct mqtt_publish){
                       .topic = "t/log/gw/channels/1/error", .payload = "{}", .length = 2, .qos = 1});
    take(7, "where?");
    cr_assert(command_queue_is_announced(&queue));
    run_until_written();
}

// Reports need not wait behind two messages for each.
Test(command_intake, while_many_messages_wait_no_new_command_is_announced) {
    take_array(7, "rconf");
    take_in_all();
    cr_assert(outbox_count(carrier.outbox) <= published + BEHIND + 2, "%zu wait",
              outbox_count(carrier.outbox));
    cr_assert(!command_queue_has_more(&queue) && !command_queue_is_announced(&queue));
    for (int i = 0; !command_queue_is_announced(&queue);
         i++) { // the broker takes all that there is, again and again
        cr_assert(i < ARRAY);
        for (size_t mid = 1; mid <= published; mid++)
            outbox_published(carrier.outbox, (int)mid, MQTT_TAKEN, "");
        outbox_link_ready(carrier.outbox);
        command_queue_go_on(&queue);
    }
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        cr_assert(command->confirmed && !command->unannounced);
    run_until_written();
}

// The gateway is killed: what is on disk by then is what it has.
static void restart(void) {
    struct command_sync sync = {.queue = &queue, .roll_call = roll_call, .journal = &journal};
    run_until_written();
    for (struct command *command = table.by_id; command != NULL; command = command->hh.next)
        if (command->watched)
            outbox_forget(carrier.outbox, &command->waiter);
    command_intake_clear(&intake);
    command_queue_clear(&queue);
    command_table_clear(&table);
    table = (struct command_table){0};
    command_sync_start(&sync);
    intake.before_run = table.last_id;
}

#define VOUCHED 1 // what a marker covers that covers nothing

// To an older state of its disk: what the broker's marker covers now, of one that covered all.
static int64_t fall_back(void) {
    table.attested = INT64_MAX;
    return VOUCHED;
}

static void take_in_portions(int count) {
    for (int i = 0; i < count; i++)
        command_intake_go_on(&intake);
}

// The broker hears that they were taken when they are on disk, announced or not.
Test(command_intake, all_of_a_publish_are_on_disk_before_they_are_announced) {
    take_array(7, "rconf");
    take_in_all();
    cr_assert(!command_queue_is_announced(&queue));
    restart();
    cr_assert_eq(journal.count, 0);
    expect_each_once(ARRAY);
}

// The broker has heard that it was taken, and does not deliver it again. One that has ended, and is forgotten, is not taken
// in anew.
Test(command_intake, what_was_acknowledged_of_many_is_taken_in_after_each_kill) {
    take_array(7, "rconf");
    for (int portions = 0; portions < 8; portions += 3) {
        restart();
        cr_assert_eq(journal.waiting, ARRAY - known());
        take_in_portions(portions);
    }
    int64_t first = table.by_id->id;
    command_queue_forget(&queue, table.by_id);
    restart();
    cr_assert_gt(command_table_new_id(&table, 0), first + ARRAY - 1, "a number is given twice");
    take_in_all();
    cr_assert(command_table_find(&table, first) == NULL);
    expect_each_once(ARRAY - 1);
    run_until_written();
}

static void note_told(void *context, bool ok) {
    *(bool *)context = true;
}

// On a disk that takes nothing they are in memory, and with the broker as far as they are announced; the log says so. Once it
// takes something they are on it.
Test(command_intake, of_many_on_a_disk_that_takes_nothing_none_is_lost_once_it_takes_something,
     .timeout = 60) {
    let_files_grow(false);
    take_some(7, ARRAY / 2, "rconf");
    cr_assert_eq(journal.count, 1);
    run_until_written();
    cr_assert_eq(held, 0, "the broker waits for a disk that takes nothing");
    cr_assert(!store_is_writable(carrier.store));
    take_some(8, ARRAY / 2, "rconf");
    cr_assert_eq(journal.count, 1, "what cannot be written down is taken in at once");
    take_in_all();
    let_files_grow(true);
    for (bool written = false; !written;) {
        bool told = false;
        store_when_written(carrier.store, note_told, &told);
        carrier_run_until(&carrier, &told);
        written = store_is_writable(carrier.store);
    }
    cr_assert_eq(known(), ARRAY, "%zu", known());
    restart();
    cr_assert_eq(known(), ARRAY, "%zu", known());
    run_until_written();
}

// A device that was removed: its commands are not sent because the gateway ended before they were taken in.
Test(command_intake, what_was_canceled_of_many_is_not_sent_after_a_kill) {
    take_array(7, "rconf");
    take_in_portions(1);
    command_journal_cancel(&journal, queue.voice, "devices/42");
    command_queue_cancel_all(&queue, "devices/42");
    for (bool more = true; more;)
        more = command_queue_go_on(&queue);
    restart();
    take_in_all();
    for (bool more = true; more;)
        more = command_queue_go_on(&queue);
    cr_assert_eq(table.pending, 0, "%zu wait", table.pending);
    run_until_written();
}

static void take_again_after_a_restart(const char *name, bool fell_back, int portions) {
    take_array(7, name);
    take_in_portions(2);
    restart();
    cr_assert_eq(known(), 2 * PORTION);
    if (fell_back)
        fall_back();
    command_intake_connected(&intake, true);
    take_array(7, name); // what the broker did not hear to be taken comes first
    take_in_portions(portions);
    command_intake_settled(&intake, fell_back ? VOUCHED : INT64_MAX);
    take_in_all();
    expect_each_once(ARRAY);
    run_until_written();
}

Test(command_intake, of_many_that_come_again_after_a_kill_none_is_lost_or_doubled) {
    take_again_after_a_restart("rconf", true, 0);
}

Test(command_intake, of_many_that_come_again_after_a_kill_and_wait_none_is_lost_or_doubled) {
    take_again_after_a_restart("rconf", true, 30);
}

Test(command_intake, of_many_that_must_not_happen_twice_none_is_lost_or_doubled) {
    take_again_after_a_restart("reboot", false, 30);
}

// What the broker's marker covers it has heard to be taken: so these are meant.
Test(command_intake, many_that_are_meant_again_are_taken_in_again) {
    take_some(7, 2 * PORTION, "rconf");
    take_in_portions(1);
    command_intake_connected(&intake, true);
    take_some(7, 2 * PORTION, "rconf");
    take_in_portions(2); // some wait as twins, some in the journal
    command_intake_settled(&intake, INT64_MAX);
    take_in_all();
    cr_assert_eq(table.twins, 0);
    cr_assert_eq(known(), 4 * PORTION);
    run_until_written();
}

// Each kill comes before it is known that they come again.
Test(command_intake, of_many_that_were_cut_by_several_kills_none_is_lost_or_doubled) {
    take_array(7, "rconf");
    for (int i = 0; i < 3; i++) {
        take_in_portions(2 * i);
        restart();
        fall_back();
        command_intake_connected(&intake, true);
        take_array(7, "rconf");
    }
    take_in_all();
    command_intake_settled(&intake, fall_back());
    take_in_all();
    expect_each_once(ARRAY);
    run_until_written();
}

Test(command_intake, many_that_come_again_late_are_left_out) {
    take_array(7, "reboot");
    restart();
    resume();
    take_array(7, "reboot");
    take_in_all();
    expect_each_once(ARRAY);
    resume(); // killed again before the broker heard of it
    take_array(7, "reboot");
    take_in_all();
    cr_assert_eq(known(), ARRAY, "none is taken in twice");
    run_until_written();
}

Test(command_intake, many_that_come_again_after_they_were_taken_in_are_left_out) {
    take_array(7, "reboot");
    restart();
    resume();
    take_in_all();
    take_array(7, "reboot");
    take_in_all();
    cr_assert_eq(known(), ARRAY, "none is taken in twice");
    run_until_written();
}

// Its first command is rejected: another one stands for it.
Test(command_intake, those_behind_a_rejected_one_are_left_out_too) {
    char *array = array_of(ARRAY, "reboot");
    memcpy(strstr(array, "reboot"), "rebool", 6);
    for (int times = 0; times < 2; times++) {
        take(7, array);
        if (times == 0) {
            restart();
            resume();
        }
        take_in_all();
        cr_assert_eq(known(), ARRAY - 1, "none is taken in twice");
    }
    free(array);
    run_until_written();
}

// Some clients send the NUL at the end of a text.
Test(command_intake, a_payload_with_a_nul_is_rejected) {
    char *array = array_of(ARRAY, "reboot");
    const struct mqtt_received received = {
        .topic = "t/command/gw/devices/42", .payload = array, .length = strlen(array) + 1, .mid = 7};
    take_array(6, "reboot");
    command_intake_take(&intake, &received);
    free(array);
    take_in_all();
    cr_assert_eq(known(), ARRAY);
    run_until_written();
}

// --- some in one publish, each with a row of its own ---

static void note_written(void *context, bool ok) {
    *(bool *)context = ok;
}

// The disk had only the first ones when the gateway was killed.
static void cut(size_t first) {
    bool written = false;
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        if (command->part > (int)first)
            store_delete_command(carrier.store, command->id);
    store_when_written(carrier.store, note_written, &written);
    carrier_run_until(&carrier, &written);
    restart();
    cr_assert_eq(known(), first);
}

static void take_again_after_a_cut(const char *name, bool fell_back) {
    take_some(7, PORTION, name);
    cut(20);
    if (fell_back)
        fall_back();
    command_intake_connected(&intake, true);
    take_some(7, PORTION, name); // what the broker did not hear to be taken comes first
    command_intake_settled(&intake, fell_back ? VOUCHED : INT64_MAX);
    expect_each_once(PORTION);
    run_until_written();
}

Test(command_intake, of_some_that_were_cut_by_a_kill_the_rest_is_taken_in_when_they_come_again) {
    take_again_after_a_cut("rconf", true);
}

Test(command_intake, of_some_that_must_not_happen_twice_the_rest_is_taken_in_when_they_come_again) {
    take_again_after_a_cut("reboot", false);
}

Test(command_intake, of_some_that_come_again_late_the_rest_is_taken_in) {
    take_some(7, PORTION, "reboot");
    cut(20);
    resume();
    take_some(7, PORTION, "reboot");
    expect_each_once(PORTION);
    resume(); // killed again before the broker heard of it
    take_some(7, PORTION, "reboot");
    cr_assert_eq(known(), PORTION, "none is taken in twice");
    run_until_written();
}

// --- one that no marker covers ---

// How many are known when one comes again that may happen twice.
static size_t take_again(int64_t vouched) {
    command_intake_connected(&intake, true);
    take(7, "where?");
    command_intake_settled(&intake, vouched);
    take_in_all();
    cr_assert_eq(table.twins, 0);
    run_until_written();
    return known();
}

Test(command_intake, one_that_comes_again_over_a_connection_is_left_out) {
    take(7, "where?");
    run_until_written();
    cr_assert_eq(take_again(1), 1);
}

// It was killed before it came to a marker, and the packet id went round: this one may be meant.
Test(command_intake, one_that_comes_again_to_another_run_is_taken_in) {
    take(7, "where?");
    restart();
    cr_assert_eq(take_again(1), 2);
}

Test(command_intake, one_that_comes_again_from_a_broker_that_fell_back_is_left_out) {
    take(7, "where?");
    restart();
    fall_back();
    cr_assert_eq(take_again(1), 1);
}

// To before it had any marker.
Test(command_intake, one_that_comes_again_from_a_broker_that_fell_back_far_is_left_out) {
    take(7, "where?");
    restart();
    fall_back();
    cr_assert_eq(take_again(0), 1);
}

// As RabbitMQ does, which also numbers anew on each connection.
Test(command_intake, one_that_comes_again_from_a_broker_that_shows_no_marker_is_taken_in) {
    take(7, "where?");
    run_until_written();
    fall_back();
    cr_assert_eq(take_again(-1), 2);
}

// A marker that was on its way over the connection says nothing of what the broker knew when it delivered.
Test(command_intake, a_marker_that_comes_to_the_broker_meanwhile_does_not_count) {
    take(7, "where?");
    restart();
    command_intake_connected(&intake, true);
    take(7, "where?");
    command_intake_settled(&intake, fall_back());
    take_in_all();
    cr_assert_eq(known(), 2);
    run_until_written();
}

// --- a connection ---

#define MANY 20000

static void add_ended(int64_t id) {
    struct command *command = calloc(1, sizeof *command);
    command->id = id;
    command->key = strdup("devices/42");
    command->state = COMMAND_PROCESSED;
    command->definition = json_object();
    command->forget_at = clock_ticks() + MINUTE;
    command->publish = (uint64_t)id;
    command->mid = 1;
    command_table_add(&table, command);
}

Test(command_intake, recalls_a_few_of_many_in_a_turn_when_it_is_connected) {
    struct command_sync sync = {.queue = &queue, .roll_call = roll_call, .journal = &journal};
    unsigned turns = 1, confirmed = 0;
    take(7, "where?");
    run_until_written();
    table.by_id->confirmed = false; // it is on its way, since nobody has answered
    for (int64_t id = 1; id < MANY; id++)
        add_ended(id);
    command_sync_connected(&sync);
    queue.effort = 0;
    command_intake_connected(&intake, true);
    cr_assert(redelivery_count(intake.redelivery) <= COMMAND_EFFORT_MAX, "%zu in one turn",
              redelivery_count(intake.redelivery));
    for (bool more = true; more; turns++) {
        queue.effort = 0;
        more = command_sync_recall(&sync);
        queue.effort = 0;
        more = command_intake_recall(&intake) || more;
    }
    cr_assert_eq(turns, 1 + MANY / COMMAND_EFFORT_MAX);
    cr_assert_eq(redelivery_count(intake.redelivery), MANY);
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        confirmed += command->confirmed;
    cr_assert_eq(confirmed, 1, "%u are on their way", confirmed);
}

// What comes too early is compared with all.
Test(command_intake, recalls_all_before_it_takes_something_in) {
    for (int64_t id = 1; id < MANY; id++)
        add_ended(id);
    take(7, "reboot#");
    run_until_written();
    command_intake_connected(&intake, true);
    cr_assert(intake.recalling.under_way);
    take(7, "reboot#");
    cr_assert_eq(table.twins, 1, "it was not found");
    command_intake_settled(&intake, 0);
    take_in_all();
    cr_assert_eq(known(), MANY);
    run_until_written();
}

static void add_twin(int64_t id) {
    struct command *command = calloc(1, sizeof *command);
    command->id = id;
    command->key = strdup("devices/42");
    command->state = COMMAND_QUEUED;
    command->definition = json_object();
    command->twin = VOUCHED + 1;
    command_table_add(&table, command);
}

static void add_twins(void) {
    take_and_end(7, REBOOT);
    for (int64_t id = 1; id < MANY; id++)
        add_twin(table.last_id + id);
    command_intake_connected(&intake, true);
    while (command_intake_recall(&intake))
        queue.effort = 0;
}

static void expect_all_left_out(void) {
    cr_assert_eq(table.twins, 0);
    cr_assert_eq(known(), 1, "%zu are left", known());
    run_until_written();
}

Test(command_intake, decides_a_few_of_many_that_came_again_in_a_turn) {
    unsigned turns = 1;
    add_twins();
    command_intake_settled(&intake, VOUCHED);
    for (size_t left = MANY; table.twins > 0; turns++) {
        cr_assert_lt(left - table.twins, MANY / 10, "%zu in one turn", left - table.twins);
        left = table.twins;
        cr_assert(command_intake_go_on(&intake) || table.twins == 0);
    }
    cr_assert_gt(turns, 10);
    expect_all_left_out();
}

// Those that wait may be the very same.
Test(command_intake, what_came_again_is_not_rejected_because_so_many_wait) {
    take_array(7, "rconf");
    take_in_all();
    cr_assert_eq(known(), COMMANDS_PER_DEVICE_MAX);
    command_intake_connected(&intake, true);
    while (command_intake_recall(&intake))
        queue.effort = 0;
    take_array(7, "rconf");
    take_in_all();
    cr_assert_eq(table.twins, COMMANDS_PER_DEVICE_MAX);
    run_until_written();
}

// A connection that ends again and again before anything is known of them adds no more.
Test(command_intake, what_comes_again_and_again_has_a_bound) {
    take_array(7, "rconf");
    take_in_all();
    for (int i = 0; i < 4; i++) {
        command_intake_connected(&intake, true);
        while (command_intake_recall(&intake))
            queue.effort = 0;
        take_array(7, "rconf");
        take_in_all();
    }
    cr_assert_eq(known(), 2 * COMMANDS_PER_DEVICE_MAX);
    run_until_written();
}

#define PUBLISHES 60
#define LARGE     250000

static void take_large_ones(void) {
    char *text = array_of(PORTION + 1, "rconf"), *large = malloc(LARGE + 1), topic[64];
    snprintf(large, LARGE + 1, "[%*s%s", LARGE - 1 - (int)strlen(text), "", text + 1);
    for (int i = 1; i <= PUBLISHES; i++) {
        snprintf(topic, sizeof topic, "t/command/gw/devices/%d", i);
        take_for(topic, i, large);
    }
    run_until_written();
    free(text);
    free(large);
}

static size_t count_undecided(void) {
    size_t count = 0;
    for (const struct command_publish *publish = journal.publishes; publish != NULL; publish = publish->next)
        count += publish->origin.twin != 0;
    return count;
}

// Each is written again, as large as it is.
Test(command_intake, decides_a_few_of_many_large_publishes_that_came_again_in_a_turn) {
    take_large_ones();
    take_in_all();
    command_intake_connected(&intake, true);
    take_large_ones();
    cr_assert_eq(count_undecided(), PUBLISHES);
    command_intake_settled(&intake, INT64_MAX);
    for (size_t left = PUBLISHES; left > 0; command_intake_go_on(&intake)) {
        cr_assert_lt(left - count_undecided(), PUBLISHES / 4, "%zu in one turn", left - count_undecided());
        left = count_undecided();
    }
    take_in_all();
    cr_assert_eq(known(), 2 * PUBLISHES * (PORTION + 1));
    run_until_written();
}

// Nothing is taken in before, and the next marker says nothing of these.
Test(command_intake, what_came_again_is_decided_by_its_own_marker_over_a_connection) {
    add_twins();
    command_intake_settled(&intake, VOUCHED);
    command_intake_connected(&intake, true);
    cr_assert_gt(table.twins, 0);
    for (bool more = true; more; more = command_intake_recall(&intake))
        queue.effort = 0;
    cr_assert_eq(table.twins, 0);
    command_intake_settled(&intake, INT64_MAX);
    expect_all_left_out();
}

Test(command_intake, what_came_again_is_decided_by_its_own_marker_after_the_session) {
    add_twins();
    command_intake_settled(&intake, VOUCHED);
    command_intake_connected(&intake, false);
    cr_assert_not(command_intake_is_recalling(&intake), "the link is held for nothing");
    take_in_all();
    expect_all_left_out();
}

// The session is on disk before all of what came in the one before is decided.
Test(command_intake, what_came_again_in_a_session_that_is_over_is_taken_in_after_a_kill_meanwhile) {
    add_twins();
    command_table_note_id(&table, table.last_id + MANY);
    command_intake_connected(&intake, false);
    cr_assert_gt(table.twins, 0);
    run_until_written();
    int64_t before_session = intake.before_session;
    command_walk_end(&table, &intake.undecided); // as after a kill: the rows say no more than this
    intake.deciding = false;
    intake.before_session = before_session;
    command_intake_connected(&intake, true);
    command_intake_settled(&intake, 0);
    take_in_all();
    cr_assert_eq(table.twins, 0);
    cr_assert_eq(known(), MANY, "%zu are left", known());
    run_until_written();
}

// Its device was removed before it was known that it came again.
static void end_one_of_two_that_came_again(void) {
    static const char *const topics[] = {"t/command/gw/devices/42", "t/command/gw/devices/43"};
    take_for(topics[0], 7, REBOOT);
    take_for(topics[1], 8, REBOOT);
    run_until_written();
    command_intake_connected(&intake, true);
    take_for(topics[0], 7, REBOOT);
    take_for(topics[1], 8, REBOOT);
    cr_assert_eq(table.twins, 2);
    command_queue_cancel_all(&queue, "devices/42");
    cr_assert_eq(table.twins, 1);
}

static void publish_ends(void) {
    run_until_written();
    while (command_queue_has_more(&queue))
        command_queue_go_on(&queue);
}

Test(command_intake, one_that_came_again_and_has_ended_meanwhile_is_not_left_out) {
    end_one_of_two_that_came_again();
    command_intake_settled(&intake, 0);
    cr_assert_eq(table.twins, 0);
    cr_assert_eq(known(), 3);
    publish_ends();
}

static size_t count_waiting_for(const char *key) {
    const struct command_target *target = command_table_target(&table, key);
    return target != NULL ? target->count : 0;
}

Test(command_intake, one_that_is_meant_again_and_has_ended_meanwhile_stays_ended) {
    end_one_of_two_that_came_again();
    size_t before = outbox_count(carrier.outbox);
    intake.recent = INT64_MAX;
    command_intake_settled(&intake, INT64_MAX);
    cr_assert_eq(count_waiting_for("devices/42"), 0);
    cr_assert_eq(count_waiting_for("devices/43"), 2);
    cr_assert_eq(outbox_count(carrier.outbox) - before, 2, "%zu are said: what has ended is queued",
                 outbox_count(carrier.outbox) - before);
    publish_ends();
}

// After a kill a marker that says more than the disk would make it one that is meant again. The broker numbers anew.
static void expect_held_until_left_out(void) {
    cr_assert_eq(held, 0);
    command_intake_settled(&intake, 0);
    cr_assert_eq(held, 1, "the next marker may leave before the disk knows that it is left out");
    run_until_written();
    cr_assert_eq(held, 0);
}

Test(command_intake, one_that_is_left_out_is_off_the_disk_before_the_next_marker) {
    take_and_end(7, REBOOT);
    run_until_written();
    command_intake_connected(&intake, true);
    take(1, REBOOT);
    run_until_written();
    cr_assert_eq(table.twins, 1);
    expect_held_until_left_out();
    restart();
    cr_assert_eq(known(), 1);
}

static void take_reboots_and_again(void) {
    take_array(7, "reboot");
    take_in_all();
    run_until_written();
    command_intake_connected(&intake, true);
    take_array(1, "reboot");
    run_until_written();
}

Test(command_intake, many_that_are_left_out_are_so_on_disk_before_the_next_marker) {
    take_reboots_and_again();
    expect_held_until_left_out();
    restart();
    take_in_all();
    cr_assert_eq(table.twins, 0);
    expect_each_once(ARRAY);
}

// Its device is removed before it has gone from memory.
Test(command_intake, many_that_are_left_out_stay_off_the_disk_when_their_device_goes) {
    take_reboots_and_again();
    command_intake_settled(&intake, 0);
    command_journal_cancel(&journal, queue.voice, "devices/42");
    run_until_written();
    restart();
    cr_assert_eq(journal.count, 0);
    expect_each_once(ARRAY);
}

static size_t count_named(const char *name) {
    size_t count = 0;
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        count += strcmp(command_name(command), name) == 0;
    return count;
}

// The second time they go to the journal, behind others.
Test(command_intake, of_some_that_were_cut_by_a_kill_none_is_doubled_by_a_second_one) {
    take_some(7, PORTION, "reboot");
    cut(20);
    command_intake_connected(&intake, true);
    take_some(6, PORTION + 1, "rconf");
    take_some(7, PORTION, "reboot");
    command_intake_settled(&intake, 0);
    restart();
    take_in_all();
    cr_assert_eq(count_named("reboot"), PORTION, "%zu", count_named("reboot"));
    cr_assert_eq(count_named("rconf"), PORTION + 1);
    run_until_written();
}

static size_t count_waiting(const char *name) {
    size_t count = 0;
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        count += !command_has_ended(command) && strcmp(command_name(command), name) == 0;
    return count;
}

static void take_some_and_one_that_must_not_happen_twice(int mid, int64_t vouched) {
    command_intake_connected(&intake, true);
    take(mid, "[{\"name\":\"rconf\"}," REBOOT "]");
    command_intake_settled(&intake, vouched);
    run_until_written();
}

// The second time the other one is taken in: it rather happens twice. The third time is known from that.
Test(command_intake, one_that_was_left_out_of_several_stays_so_when_they_come_once_more) {
    for (int times = 1; times <= 3; times++) {
        take_some_and_one_that_must_not_happen_twice(7, times < 3 ? 1 : fall_back());
        cr_assert_eq(count_waiting("reboot"), 1, "%d times", times);
        cr_assert_eq(count_waiting("rconf"), times == 1 ? 1 : 2);
        restart();
    }
}

// Only what must not happen twice is left out whatever its packet id.
Test(command_intake, of_several_with_another_packet_id_one_that_may_happen_twice_is_taken_in) {
    take_some_and_one_that_must_not_happen_twice(7, 0);
    take_some_and_one_that_must_not_happen_twice(8, 0);
    cr_assert_eq(count_waiting("reboot"), 1);
    cr_assert_eq(count_waiting("rconf"), 2);
}

// The first one was published at QoS 0.
Test(command_intake, of_several_without_a_packet_id_one_that_may_happen_twice_is_taken_in) {
    take_some_and_one_that_must_not_happen_twice(0, 0);
    take_some_and_one_that_must_not_happen_twice(8, 0);
    cr_assert_eq(count_waiting("reboot"), 1);
    cr_assert_eq(count_waiting("rconf"), 2);
}

Test(command_intake, one_that_is_meant_again_holds_nothing) {
    take(7, "where?");
    run_until_written();
    command_intake_connected(&intake, true);
    take(7, "where?");
    run_until_written();
    command_intake_settled(&intake, INT64_MAX);
    cr_assert_eq(table.twins, 0);
    cr_assert_eq(held, 0);
}
