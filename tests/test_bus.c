// The bus: what becomes of JSON, of prefixes and of names.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/broker/bus.h"
#include "tests/carrier.h"

static struct carrier broker;
static struct bus *bus;

static void set_up(void) {
    carrier_open_as(&broker, "a/prefix");
    bus = bus_new("a/prefix", "gateway-1", broker.outbox, &broker.carrier);
}

static void tear_down(void) {
    bus_free(bus);
    carrier_close(&broker);
}

TestSuite(bus, .init = set_up, .fini = tear_down);

static void expect_last(const char *topic, const char *payload, enum mqtt_retain retain) {
    const struct carried *last = carrier_last(&broker);
    cr_expect_str_eq(last->topic, topic);
    cr_expect_str_eq(last->payload, payload);
    cr_expect_eq(last->retain, retain);
    cr_expect_eq(last->qos, 1);
}

Test(bus, publishes_json_under_the_prefix_with_sorted_keys) {
    json_t *json = json_pack("{s:i, s:f, s:[b]}", "b", 1, "a", 1790283046.123456, "c", 1);
    carrier_go_up(&broker);
    cr_assert(bus_publish(bus, json, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%d" TOPIC_CONNECTED, 42) > 0);
    expect_last("a/prefix/state/gw/devices/42/connected", "{\"a\":1790283046.123456,\"b\":1,\"c\":[true]}",
                MQTT_RETAINED);
    json_decref(json);
}

Test(bus, publishes_bare_values_and_empty_payloads) {
    carrier_go_up(&broker);
    bus_publish(bus, json_true(), MQTT_RETAINED_SIGNED, "yes");
    expect_last("a/prefix/yes", "true", MQTT_RETAINED_SIGNED);
    bus_publish(bus, NULL, MQTT_RETAINED, "gone");
    expect_last("a/prefix/gone", "", MQTT_RETAINED);
    bus_publish_text(bus, "another/prefix", "as it is", 5, MQTT_NOT_RETAINED);
    expect_last("another/prefix", "as it", MQTT_NOT_RETAINED);
}

Test(bus, keeps_for_later_what_goes_by_the_outbox_and_nothing_else) {
    cr_assert(!bus_is_up(bus));
    bus_publish_last(bus, json_true(), "now");
    bus_publish(bus, json_true(), MQTT_RETAINED, "later");
    carrier_go_up(&broker);
    cr_assert(bus_is_up(bus));
    cr_expect_eq(broker.count, 1);
    expect_last("a/prefix/later", "true", MQTT_RETAINED);
    bus_publish_last(bus, json_false(), "now");
    expect_last("a/prefix/now", "false", MQTT_RETAINED);
    cr_expect_eq(outbox_count(broker.outbox), 1, "what goes past the outbox is not in it");
}

Test(bus, puts_nothing_into_a_full_outbox) {
    char large[4096];
    memset(large, 'x', sizeof large);
    while (!bus_is_full(bus)) {
        cr_assert(bus_publish_text(bus, "t", large, sizeof large, MQTT_NOT_RETAINED) > 0);
        uv_run(&broker.loop, UV_RUN_NOWAIT);
    }
    size_t count = outbox_count(broker.outbox);
    cr_expect_eq(bus_publish(bus, json_true(), MQTT_RETAINED, "t"), 0);
    cr_expect_eq(bus_publish_text(bus, "t", "x", 1, MQTT_RETAINED), 0);
    cr_expect_eq(outbox_count(broker.outbox), count);
    cr_expect(!bus_keeps_up(bus));
}

Test(bus, takes_topics_apart) {
    static const struct {
        const char *topic, *kind, *rest;
    } cases[] = {
        {"a/prefix/state/gw/devices/1", TOPIC_STATE, "devices/1"},
        {"a/prefix/state/gw/", TOPIC_STATE, ""},
        {"a/prefix/log/gw/devices/1", TOPIC_STATE, NULL},
        {"a/prefixed/state/gw/devices/1", TOPIC_STATE, NULL},
        {"a/state/gw/devices/1", TOPIC_STATE, NULL},
        {"a/prefix", TOPIC_STATE, NULL},
        {"", TOPIC_STATE, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *rest = bus_topic_after(bus, cases[i].topic, cases[i].kind);
        cr_expect((rest == NULL) == (cases[i].rest == NULL), "%s", cases[i].topic);
        if (rest != NULL && cases[i].rest != NULL)
            cr_expect_str_eq(rest, cases[i].rest);
    }
}

Test(bus, knows_its_own_name) {
    char topic[TOPIC_MAX];
    cr_expect(bus_is_own(bus, "gateway-1"));
    cr_expect(!bus_is_own(bus, "gateway-10") && !bus_is_own(bus, "gateway-") && !bus_is_own(bus, NULL));
    cr_expect_str_eq(bus_topic(bus, topic, TOPIC_STATE TOPIC_INSTANCES "%s", bus_client_id(bus)),
                     "a/prefix/state/gw/instances/gateway-1");
}

// --- order ---

#define THINGS 120
#define PLACES 10 // messages at the broker at once

static unsigned few_places(void *context) {
    return PLACES;
}

static enum mqtt_publish_result (*publish)(void *context, const struct mqtt_publish *publish, int *mid);

static enum mqtt_publish_result not_now(void *context, const struct mqtt_publish *what, int *mid) {
    return MQTT_NOT_NOW;
}

static size_t place_of(const char *word, int id) {
    char topic[96];
    snprintf(topic, sizeof topic, "a/prefix/" TOPIC_LOG TOPIC_DEVICES "%d/%s", id, word);
    for (size_t i = 0; i < broker.count; i++)
        if (strcmp(broker.carried[i].topic, topic) == 0)
            return i;
    cr_assert_fail("%s never went out", topic);
    return 0;
}

// Also where not all can go at once: who hears last that a device has gone takes it for gone.
Test(bus, log_entries_about_one_thing_go_out_in_their_order) {
    broker.carrier.window = few_places;
    carrier_go_up(&broker);
    for (int id = 0; id < THINGS; id++)
        bus_publish(bus, json_true(), MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_DEVICES "%d/deleted", id);
    publish = broker.carrier.publish;
    broker.carrier.publish = not_now; // there are places, and the library is busy
    carrier_answer_all(&broker);
    for (int id = THINGS - 1; id >= 0; id--)
        bus_publish(bus, json_true(), MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_DEVICES "%d/created", id);
    broker.carrier.publish = publish;
    outbox_link_ready(broker.outbox);
    for (int i = 0; i < 2 * THINGS && outbox_count(broker.outbox) > 0; i++) {
        carrier_answer_all(&broker);
        outbox_link_ready(broker.outbox);
    }
    for (int id = 0; id < THINGS; id++)
        cr_expect(place_of("deleted", id) < place_of("created", id), "device %d is told to have gone last",
                  id);
}
