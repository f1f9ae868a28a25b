// The registry in the broker, with a broker of the test's own: portions, bounds, and what a missing device means.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/state/registrar.h"
#include "tests/carrier.h"

#define NAME_MAX_LENGTH 64
#define QUIET_TIME      20 // milliseconds

static struct carrier broker;
static struct bus *bus;
static struct publisher *publisher;
static struct generation *generation;
static struct registry *registry;
static struct registrar *registrar;
static size_t changes;
static bool busy, written;
static char asked[64][NAME_MAX_LENGTH]; // filters, as they were asked for
static size_t asked_count, left_count;

static bool ask(void *context, const char *filter) {
    cr_assert(asked_count < sizeof asked / sizeof asked[0]);
    strcpy(asked[asked_count++], filter);
    return true;
}

static void ask_no_more(void *context, const char *filter) {
    left_count++;
}

static void on_changed(void *context, const char *ident, const struct device *before, bool stood) {
    changes++;
}

static bool is_busy(void *context) {
    return busy;
}

static bool speaks(void *context) {
    return true;
}

static struct config_devices *no_devices(void) {
    struct config_devices *devices = calloc(1, sizeof *devices);
    devices->list = calloc(1, sizeof *devices->list);
    return devices;
}

static void set_up(void) {
    carrier_open_as(&broker, "t");
    bus = bus_new("t", "me", broker.outbox, &broker.carrier);
    publisher = publisher_new(&broker.loop);
    generation = generation_new(&broker.loop, bus, publisher);
    registry = registry_new(no_devices(), UNKNOWN_ACCEPT, 10);
    changes = asked_count = left_count = 0;
}

static void tear_down(void) {
    publisher_stop(publisher);
    registrar_stop(registrar);
    carrier_close(&broker);
    registrar_free(registrar);
    registry_free(registry);
    generation_free(generation);
    publisher_free(publisher);
    bus_free(bus);
}

TestSuite(registrar, .init = set_up, .fini = tear_down);

static void open_registrar(void) {
    registrar =
        registrar_new(&(struct registrar_parts){.loop = &broker.loop,
                                                .bus = bus,
                                                .registry = registry,
                                                .store = broker.store,
                                                .asker = {.subscribe = ask, .unsubscribe = ask_no_more},
                                                .quiet_time = QUIET_TIME,
                                                .publisher = publisher,
                                                .generation = generation,
                                                .changed = on_changed,
                                                .is_busy = is_busy,
                                                .speaks = speaks});
    registrar_connected(registrar);
}

static void hear(int number, const char *payload, bool retained) {
    char ident[24];
    snprintf(ident, sizeof ident, "van-%d", number);
    registrar_received(
        registrar, ident,
        &(struct mqtt_received){.payload = payload, .length = strlen(payload), .retain = retained});
}

static void hear_many(int first, int last, const char *payload, bool retained) {
    for (int i = first; i <= last; i++)
        hear(i, payload, retained);
}

static void turn(void) {
    uv_run(&broker.loop, UV_RUN_NOWAIT);
}

static void turn_until(size_t wanted) {
    for (int i = 0; i < 100000 && changes < wanted; i++)
        turn();
    cr_assert(changes == wanted, "%zu changes", changes);
}

static void on_written(void *context, bool ok) {
    written = true;
}

static void wait_for_disk(void) {
    written = false;
    store_when_written(broker.store, on_written, NULL);
    carrier_run_until(&broker, &written);
}

// As an earlier run has left them.
static void store_many(int last) {
    for (int i = 1; i <= last; i++) {
        char row[96];
        snprintf(row, sizeof row, "{\"ident\":\"van-%d\",\"payload\":\"{}\",\"generation\":7}", i);
        store_put_device(broker.store, i, row);
    }
    wait_for_disk();
    open_registrar();
    cr_assert(registry_count_adopted(registry) == (size_t)last);
}

// --- portions ---

Test(registrar, takes_many_devices_in_portions) {
    open_registrar();
    hear_many(1, 20000, "{\"name\":\"Van\"}", true);
    cr_assert(changes == 0);
    turn();
    cr_assert(changes > 0 && changes < 20000, "%zu at once", changes);
    turn_until(20000);
    cr_assert(registry_count_adopted(registry) == 20000);
}

Test(registrar, waits_while_a_configuration_is_taken_over) {
    open_registrar();
    busy = true;
    hear(1, "{}", false);
    hear(1, "{\"name\":\"Van\"}", false);
    for (int i = 0; i < 10; i++)
        turn();
    cr_assert(changes == 0);
    busy = false;
    turn_until(1); // the last one alone counts
    cr_assert_str_eq(registry_adopted(registry, "van-1")->name, "Van");
}

// --- the copy ---

static size_t rows;

static void take_row(void *context, int64_t number, const char *entry) {
    rows++;
    cr_assert(strstr(entry, "van-1") != NULL && strstr(entry, "{\\\"name\\\":\\\"Van\\\"}") != NULL, "%s",
              entry);
}

Test(registrar, keeps_a_copy_on_disk) {
    open_registrar();
    hear(1, "{\"name\":\"Van\"}", false);
    hear(2, "{\"name\":\"Lorry\"}", false);
    turn_until(2);
    hear(2, "", false);
    turn_until(3);
    wait_for_disk();
    cr_assert(store_each_device(broker.store, take_row, NULL));
    cr_assert(rows == 1);
}

// --- what is missing ---

static const struct generation_span nothing_lost = {.after = UINT32_MAX, .before = UINT32_MAX};

Test(registrar, a_device_that_is_missing_was_removed) {
    store_many(3);
    hear_many(1, 2, "{}", true);
    registrar_settled(registrar, true, nothing_lost);
    turn_until(1);
    cr_assert(registry_adopted(registry, "van-3") == NULL && registry_count_adopted(registry) == 2);
}

// --- what a broker leaves out ---

static void turn_until_asked(size_t wanted) {
    for (int i = 0; i < 10000 && asked_count < wanted; i++) {
        turn();
        usleep(1000);
    }
    cr_assert(asked_count == wanted, "%zu questions", asked_count);
}

static void turn_until_left(size_t wanted) {
    for (int i = 0; i < 10000 && left_count < wanted; i++) {
        turn();
        usleep(1000);
    }
    cr_assert(left_count == wanted, "%zu", left_count);
}

// Ten times the quiet time.
static void wait_a_while(void) {
    for (int i = 0; i < 10 * QUIET_TIME; i++) {
        turn();
        usleep(1000);
    }
}

static void expect_asked(size_t i, const char *filter) {
    cr_assert_str_eq(asked[i], filter);
}

// A queue that is too short, as Mosquitto's may be, leaves some out: van-1001, and van-1002 is removed.
static void hear_a_crowd(void) {
    store_many(1002);
    hear_many(1, 1000, "{}", true);
    registrar_settled(registrar, true, nothing_lost);
    turn_until_asked(3);
    expect_asked(0, "t/registry/gw/devices/van-1001");
    expect_asked(1, "t/registry/gw/devices/van-1002");
    cr_assert(changes == 0 && registry_count_adopted(registry) == 1002);
}

static int asked_last(void) {
    return atoi(strrchr(asked[asked_count - 1], '-') + 1);
}

Test(registrar, who_is_left_out_of_a_crowd_is_asked_for_by_name) {
    hear_a_crowd();
    hear(1001, "{}", true);
    hear(asked_last(), "{}", true);
    turn_until(1);
    cr_assert(registry_adopted(registry, "van-1001") != NULL &&
              registry_adopted(registry, "van-1002") == NULL);
    cr_assert(asked_count == left_count);
}

// It does not even tell of one that it has.
Test(registrar, without_an_answer_none_counts_as_removed) {
    hear_a_crowd();
    turn_until_left(3 * 5);
    wait_a_while();
    cr_assert(asked_count == 3 * 5 && changes == 0 && registry_count_adopted(registry) == 1002);
}

Test(registrar, asks_for_all_again_until_nothing_new_comes) {
    open_registrar();
    registrar_settled(registrar, true, nothing_lost);
    hear_many(1, 1000, "{}", false);
    turn_until_asked(1);
    hear_many(1, 1001, "{}", true);
    turn_until_asked(2);
    hear_many(1, 1001, "{}", true);
    wait_a_while();
    expect_asked(0, "t/registry/gw/devices/+");
    expect_asked(1, "t/registry/gw/devices/+");
    cr_assert(asked_count == 2 && changes == 1001);
}

Test(registrar, asks_for_nothing_when_little_comes) {
    open_registrar();
    registrar_settled(registrar, true, nothing_lost);
    hear_many(1, 999, "{}", false);
    wait_a_while();
    cr_assert(asked_count == 0 && changes == 999);
}

// --- what was lost ---

static size_t count_given_back(void) {
    size_t count = 0;
    for (size_t i = 0; i < broker.count; i++)
        count += strstr(broker.carried[i].topic, "t/registry/gw/devices/van-") != NULL &&
                 strcmp(broker.carried[i].payload, "{}") == 0 && broker.carried[i].retain == MQTT_RETAINED;
    return count;
}

static size_t given_back(bool remembered, uint32_t after) {
    store_many(3);
    carrier_go_up(&broker);
    publisher_open(publisher);
    hear(1, "{}", true);
    registrar_settled(registrar, remembered, (struct generation_span){after, 9});
    for (int i = 0; i < 10000 && count_given_back() < 2; i++) {
        turn();
        publisher_publish(publisher);
        usleep(1000);
    }
    cr_assert(changes == 0 && registry_count_adopted(registry) == 3);
    return count_given_back();
}

Test(registrar, gives_back_to_a_broker_that_remembers_nothing) {
    cr_assert(given_back(false, 0) == 2);
}

Test(registrar, gives_back_to_a_broker_that_has_fallen_back) {
    cr_assert(given_back(true, 6) == 2);
}

// --- ids that others have ---

// A configuration that gives the id 5 to van-9.
static void configure_five(void) {
    struct config_devices *devices = no_devices();
    devices->list[0] = (struct config_device){.ident = "van-9", .name = "Nine", .id = 5};
    devices->count = 1;
    registry_free(registry);
    registry = registry_new(devices, UNKNOWN_ACCEPT, 10);
}

static void hear_and_take(int number, const char *payload, size_t wanted) {
    hear(number, payload, false);
    for (int i = 0; i < 1000; i++)
        turn();
    cr_assert_eq(registry_count_adopted(registry), wanted, "%zu are adopted",
                 registry_count_adopted(registry));
}

// One way for all: what came before the configuration had the id is known as well.
Test(registrar, an_id_of_the_configuration_is_taken_and_waits) {
    configure_five();
    open_registrar();
    hear_and_take(1, "{\"id\":5}", 1);
    cr_expect(!registry_is_in_force(registry, "van-1"));
    hear_and_take(2, "{\"id\":6}", 2);
    hear_and_take(2, "{\"id\":5}", 2); // what stood before stays in force
    cr_expect(registry_is_in_force(registry, "van-2") && registry_adopted(registry, "van-2")->id == 6);
    wait_for_disk();
    registrar_stop(registrar);
    registrar_free(registrar);
    registry_free(registry);
    registry = registry_new(no_devices(), UNKNOWN_ACCEPT, 10); // which does so no longer
    open_registrar();
    cr_expect(registry_is_in_force(registry, "van-1"));
}

Test(registrar, of_two_with_one_id_one_is_adopted_whatever_the_configuration_has) {
    configure_five();
    open_registrar();
    hear_and_take(1, "{\"id\":5}", 1);
    hear_and_take(9, "{\"id\":5}", 1);
    hear_and_take(2, "{\"id\":5}", 1);
}

// --- what the configuration has ---

static void open_again(struct config_devices *devices) {
    registrar_stop(registrar);
    registrar_free(registrar);
    registry_free(registry);
    registry = registry_new(devices, UNKNOWN_ACCEPT, 10);
    open_registrar();
}

// For the next run, which knows so what has left meanwhile.
Test(registrar, remembers_which_devices_the_configuration_has) {
    configure_five();
    open_registrar();
    registrar_remember_configured(registrar);
    wait_for_disk();
    hear_and_take(1, "{}", 1);
    wait_for_disk();
    open_again(no_devices());
    cr_expect(registry_has_left(registry, "van-9") && !registry_has_left(registry, "van-1"));
    cr_expect(registry_is_in_force(registry, "van-1"), "others are as they were");
    registrar_remember_configured(registrar);
    wait_for_disk();
    open_again(no_devices());
    cr_expect(!registry_has_left(registry, "van-9"));
}

// --- bounds ---

Test(registrar, has_a_bound) {
    open_registrar();
    hear_many(1, REGISTRAR_MAX + 10, "{}", true); // none has had its portion yet
    cr_assert(registrar_count(registrar) == REGISTRAR_MAX, "%zu", registrar_count(registrar));
    hear(1, "{\"name\":\"Van\"}", true); // which is known
    cr_assert(registrar_count(registrar) == REGISTRAR_MAX);
}

Test(registrar, remembers_up_to_a_bound_which_were_removed) {
    open_registrar();
    hear_many(1, REGISTRAR_REMOVED_MAX + 10, "{}", false);
    turn_until(REGISTRAR_REMOVED_MAX + 10);
    hear_many(1, REGISTRAR_REMOVED_MAX + 10, "", false);
    turn_until(2 * (REGISTRAR_REMOVED_MAX + 10));
    cr_assert(registrar_count(registrar) == REGISTRAR_REMOVED_MAX, "%zu", registrar_count(registrar));
    cr_assert(registry_count_adopted(registry) == 0);
}

Test(registrar, refuses_a_payload_that_is_too_long) {
    char *text = malloc(REGISTRAR_PAYLOAD_MAX + 20);
    open_registrar();
    snprintf(text, REGISTRAR_PAYLOAD_MAX + 20, "{\"name\":\"Van\"%*s}", REGISTRAR_PAYLOAD_MAX, "");
    hear(1, text, false);
    for (int i = 0; i < 10; i++)
        turn();
    cr_assert(changes == 0 && registrar_count(registrar) == 0);
    free(text);
}
