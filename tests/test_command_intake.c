// What a broker delivers again late, when it has said all that it retains: taken in once, for a minute.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/intake.h"
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

static void set_up(void) {
    carrier_open(&carrier);
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
