// Taking in commands: what a broker delivers again late, when it has said all that it retains, is taken in once, for a
// minute; and of a publish with many commands some in each turn of the loop.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/intake.h"
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
    carrier_open(&carrier);
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
    intake = (struct command_intake){.queue = &queue, .registry = registry, .redelivery = redelivery_new()};
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

static void take(int mid, const char *payload) {
    command_intake_take(&intake, &(struct mqtt_received){.topic = "t/command/gw/devices/42",
                                                         .payload = (void *)payload,
                                                         .length = strlen(payload),
                                                         .mid = mid});
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

Test(command_intake, one_that_has_ended_is_taken_in_once) {
    take_and_end(7, "where?");
    resume();
    take(7, "where?");
    cr_assert_eq(known(), 1);
    take(7, "where?"); // it is delivered again once, not twice
    cr_assert_eq(known(), 2);
}

Test(command_intake, one_that_must_not_happen_twice_is_taken_in_once_while_it_waits) {
    take(7, REBOOT);
    resume();
    take(7, REBOOT);
    cr_assert_eq(known(), 1);
}

Test(command_intake, another_one_is_new) {
    take_and_end(7, "where?");
    resume();
    take(8, "where?");
    take(7, "rconf,1#");
    cr_assert_eq(known(), 3);
}

Test(command_intake, one_that_waits_is_new) {
    take(7, "where?");
    resume();
    take(7, "where?");
    cr_assert_eq(known(), 2);
}

Test(command_intake, after_a_minute_all_are_new) {
    take_and_end(7, "where?");
    resume();
    command_intake_sweep(&intake, clock_ticks() + MINUTE - 1000000, INT64_MAX);
    command_intake_sweep(&intake, clock_ticks() + MINUTE, INT64_MAX);
    take(7, "where?");
    cr_assert_eq(known(), 2);
}

Test(command_intake, what_came_long_before_the_connection_does_not_count) {
    take_and_end(7, "where?");
    resume();
    intake.recent = table.by_id->id;
    take(7, "where?");
    cr_assert_eq(known(), 2);
}

// --- many commands in one publish ---

#define ARRAY   1000
#define PORTION 50
#define BEHIND  500 // messages beyond which no new command is announced

static char *array_of(const char *name) {
    char *text = malloc(ARRAY * 32 + 2), *end = text;
    for (int i = 0; i < ARRAY; i++)
        end += sprintf(end, "%c{\"name\":\"%s\",\"priority\":%d}", i == 0 ? '[' : ',', name, i / 10);
    strcpy(end, "]");
    return text;
}

static void take_array(int mid, const char *name) {
    char *text = array_of(name);
    take(mid, text);
    free(text);
}

static void run_until_written(void) {
    while (held > 0)
        uv_run(&carrier.loop, UV_RUN_ONCE);
}

Test(command_intake, of_a_publish_with_many_some_are_taken_in_in_each_turn) {
    size_t turns = 1, before = PORTION;
    take_array(7, "rconf");
    cr_assert_eq(known(), PORTION);
    cr_assert_eq(enough, 1, "nothing more is to be read now");
    for (bool more = true; more; turns++, before = known()) {
        cr_assert(held > before, "its acknowledgement must wait for the others");
        more = command_intake_go_on(&intake);
        cr_assert(known() - before <= PORTION);
    }
    cr_assert_eq(known(), ARRAY);
    cr_assert_eq(turns, ARRAY / PORTION);
    run_until_written();
    const struct command *command = table.by_id;
    for (int i = 0; i < ARRAY; i++, command = command->hh.next)
        cr_assert_eq(command->priority, i / 10, "the order is another one");
}

// Reports need not wait behind two messages for each.
Test(command_intake, while_many_messages_wait_no_new_command_is_announced) {
    take_array(7, "rconf");
    while (command_intake_go_on(&intake))
        ;
    cr_assert(outbox_count(carrier.outbox) <= BEHIND + 2, "%zu wait", outbox_count(carrier.outbox));
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
    struct command_sync sync = {.queue = &queue, .roll_call = roll_call};
    run_until_written();
    for (struct command *command = table.by_id; command != NULL; command = command->hh.next)
        if (command->watched)
            outbox_forget(carrier.outbox, &command->waiter);
    command_intake_clear(&intake);
    command_queue_clear(&queue);
    command_table_clear(&table);
    table = (struct command_table){0};
    command_sync_start(&sync);
}

// The broker hears that they were taken when they are on disk, announced or not.
Test(command_intake, all_of_a_publish_are_on_disk_before_they_are_announced) {
    take_array(7, "rconf");
    while (command_intake_go_on(&intake))
        ;
    cr_assert(!command_queue_is_announced(&queue));
    restart();
    cr_assert_eq(known(), ARRAY, "%zu of %d are known", known(), ARRAY);
}

static void take_again_after_a_restart(const char *name, int64_t vouched) {
    take_array(7, name);
    command_intake_go_on(&intake);
    held--; // of the rest, which is lost
    restart();
    cr_assert_eq(known(), 2 * PORTION);
    command_intake_connected(&intake, true);
    take_array(7, name); // what the broker did not hear to be taken comes first
    while (command_intake_go_on(&intake))
        ;
    command_intake_settled(&intake, vouched);
    cr_assert_eq(known(), ARRAY, "%zu of %d are known", known(), ARRAY);
    run_until_written();
}

Test(command_intake, of_many_that_were_cut_by_a_kill_the_rest_is_taken_in_when_they_come_again) {
    take_again_after_a_restart("rconf", 0);
}

Test(command_intake, of_many_that_must_not_happen_twice_the_rest_is_taken_in_when_they_come_again) {
    take_again_after_a_restart("reboot", INT64_MAX);
}

// Each kill comes before it is known that they come again.
Test(command_intake, of_many_that_were_cut_by_several_kills_none_is_lost_or_doubled) {
    take_array(7, "rconf");
    for (int i = 0; i < 3; i++) {
        for (int portion = 0; portion < 2 * i; portion++)
            command_intake_go_on(&intake);
        held--; // of the rest, which is lost
        restart();
        command_intake_connected(&intake, true);
        take_array(7, "rconf");
    }
    while (command_intake_go_on(&intake))
        ;
    command_intake_settled(&intake, 0);
    cr_assert_eq(known(), ARRAY, "%zu of %d are known", known(), ARRAY);
    run_until_written();
}

Test(command_intake, of_many_that_come_again_late_the_rest_is_taken_in) {
    take_array(7, "reboot");
    held--; // of the rest, which is lost
    restart();
    resume();
    take_array(7, "reboot");
    while (command_intake_go_on(&intake))
        ;
    cr_assert_eq(known(), ARRAY, "%zu of %d are known", known(), ARRAY);
    run_until_written();
    resume(); // killed again before the broker heard of it
    take_array(7, "reboot");
    cr_assert_eq(known(), ARRAY, "none is taken in twice");
}
