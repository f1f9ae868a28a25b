// The registry in the broker, with a broker of the test's own: portions, bounds, and what a missing device means.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/state/registrar.h"
#include "tests/carrier.h"

static struct carrier broker;
static struct bus *bus;
static struct publisher *publisher;
static struct generation *generation;
static struct registry *registry;
static struct registrar *registrar;
static size_t changes;
static bool busy, written;

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
    carrier_open(&broker);
    bus = bus_new("t", "me", broker.outbox, &broker.carrier);
    publisher = publisher_new(&broker.loop);
    generation = generation_new(&broker.loop, bus, publisher);
    registry = registry_new(no_devices(), UNKNOWN_ACCEPT, 10);
    changes = 0;
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
    registrar = registrar_new(&(struct registrar_parts){.loop = &broker.loop,
                                                        .bus = bus,
                                                        .registry = registry,
                                                        .store = broker.store,
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

// A queue that is too short, as Mosquitto's is by default, leaves some out.
Test(registrar, of_a_crowd_none_counts_as_removed) {
    store_many(1001);
    hear_many(1, 1000, "{}", true);
    registrar_settled(registrar, true, nothing_lost);
    for (int i = 0; i < 100; i++)
        turn();
    cr_assert(changes == 0 && registry_count_adopted(registry) == 1001);
}

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
    turn();
    publisher_publish(publisher);
    cr_assert(changes == 0 && registry_count_adopted(registry) == 3);
    return count_given_back();
}

Test(registrar, gives_back_to_a_broker_that_remembers_nothing) {
    cr_assert(given_back(false, 0) == 2);
}

Test(registrar, gives_back_to_a_broker_that_has_fallen_back) {
    cr_assert(given_back(true, 6) == 2);
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
