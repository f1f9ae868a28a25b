// Everything that is retained of a device comes back after every kind of restart, of the broker, of the gateway and
// of both; or exactly as much of it as gateway/README.md promises.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/state.h"

TestSuite(restarts, .fini = rig_clean, .timeout = 180);
TestSuite(restarts_3_1_1, .fini = rig_clean, .timeout = 180);

#define SAVES "persistence true\n" // only when it is told to
#define ROWS  (sizeof rows / sizeof rows[0])
#define GATEWAY                                                                                              \
    "{'home_assistant':{'enabled':true,'unknown_devices':true},"                                             \
    "'devices':[{'ident':'866425031400042','id':42,'name':'Van'},"                                           \
    "{'ident':'866425031400043','id':43,'name':'Car'}]}"

enum { DEVICES = 4, CONFIGS_EACH = 17 };

// Connected ones stay so, and come again when the gateway does. The others have left: they sleep.
static const struct device {
    const char *ident, *id;
    bool connected, listed;
} devices[DEVICES] = {
    {"866425031400042", "42", .connected = true, .listed = true},
    {"866425031400043", "43", .connected = false, .listed = true},
    {"866425031400051", "866425031400051", .connected = true, .listed = false},
    {"866425031400052", "866425031400052", .connected = false, .listed = false},
};

enum broker { RUNS, SAVED, LOST };       // killed with all that it had on its disk, or without
enum gateway { STAYS, KILLED, STOPPED }; // SIGKILL, SIGTERM
enum first { BROKER_FIRST, GATEWAY_FIRST };

static const struct row {
    const char *name;
    enum broker broker;
    enum gateway gateway;
    enum first first;   // to end, and to come back
    bool until_reports; // what only a device can say is gone until it reports again
} rows[] = {
    {"broker killed", SAVED, STAYS, BROKER_FIRST, false},
    {"broker lost all", LOST, STAYS, BROKER_FIRST, false},
    {"gateway killed", RUNS, KILLED, BROKER_FIRST, false},
    {"gateway stopped", RUNS, STOPPED, BROKER_FIRST, false},
    {"broker, gateway killed", SAVED, KILLED, BROKER_FIRST, false},
    {"gateway killed, broker", SAVED, KILLED, GATEWAY_FIRST, false},
    {"broker, gateway stopped", SAVED, STOPPED, BROKER_FIRST, false},
    {"gateway stopped, broker", SAVED, STOPPED, GATEWAY_FIRST, false},
    {"broker lost all, gateway killed", LOST, KILLED, BROKER_FIRST, true},
    {"gateway killed, broker lost all", LOST, KILLED, GATEWAY_FIRST, true},
    {"broker lost all, gateway stopped", LOST, STOPPED, BROKER_FIRST, true},
    {"gateway stopped, broker lost all", LOST, STOPPED, GATEWAY_FIRST, true},
};

// --- what is retained ---

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

// Payloads as JSON, but for what a device has anew with each connection.
static void add_retained(struct rig *rig, const char *filter, json_t *all) {
    json_t *retained = rig_retained(rig, filter), *text;
    const char *topic;
    json_object_foreach(retained, topic, text) {
        bool anew = ends_with(topic, "/telemetry/peer") || ends_with(topic, "/telemetry/server.timestamp") ||
                    ends_with(topic, "/last_active") || ends_with(topic, "/alarms");
        json_t *value = json_loads(json_string_value(text), JSON_DECODE_ANY, NULL);
        cr_assert(value != NULL, "%s is no JSON", topic);
        json_object_set_new(all, topic, anew ? json_true() : value);
        if (anew)
            json_decref(value);
    }
    json_decref(retained);
}

static json_t *retained(struct rig *rig) {
    json_t *all = json_object();
    add_retained(rig, "state/gw/devices/#", all);
    add_retained(rig, "/homeassistant/+/+/+/config", all);
    return all;
}

static bool is_of(const char *topic, const struct device *device) {
    char state[64], node[64];
    snprintf(state, sizeof state, "/devices/%s", device->id);
    snprintf(node, sizeof node, "/trackbus_%s/", device->id);
    const char *at = strstr(topic, state);
    return strstr(topic, node) != NULL || (at != NULL && strchr("/", at[strlen(state)]) != NULL);
}

static bool is_connected_as_it_should(const json_t *all, const struct device *device) {
    char topic[96];
    snprintf(topic, sizeof topic, "trackbus/state/gw/devices/%s/connected", device->id);
    return json_equal(json_object_get(all, topic), device->connected ? json_true() : json_false());
}

// Discovery goes out last of all.
static bool is_complete(void *context) {
    json_t *all = retained(context), *value;
    const char *topic;
    size_t configs = 0;
    bool right = true;
    for (size_t i = 0; i < DEVICES; i++)
        right = right && is_connected_as_it_should(all, &devices[i]);
    json_object_foreach(all, topic, value) configs += ends_with(topic, "/config");
    json_decref(all);
    return right && configs == DEVICES * CONFIGS_EACH;
}

struct expected {
    struct rig *rig;
    json_t *all, *came;
};

static bool stands(void *context) {
    struct expected *expected = context;
    json_decref(expected->came);
    expected->came = retained(expected->rig);
    return json_equal(expected->all, expected->came);
}

static void say_differences(const json_t *expected, const json_t *came) {
    const char *topic;
    json_t *value;
    json_object_foreach((json_t *)expected, topic, value) {
        if (json_object_get(came, topic) == NULL)
            fprintf(stderr, "%s is missing\n", topic);
        else if (!json_equal(value, json_object_get(came, topic)))
            fprintf(stderr, "%s is not as expected\n", topic);
    }
    json_object_foreach((json_t *)came, topic, value) if (json_object_get(expected, topic) == NULL)
        fprintf(stderr, "%s should not be there\n", topic);
}

static void expect_retained(struct rig *rig, json_t *all, const struct row *row, const char *when) {
    struct expected expected = {.rig = rig, .all = all};
    bool came = rig_wait(stands, &expected, RIG_DEADLINE);
    if (!came)
        say_differences(all, expected.came);
    json_decref(expected.came);
    cr_assert(came, "%s: what is retained is not right %s", row->name, when);
}

// --- what is left of a sleeping device when nobody remembers it ---

// The registry knows who a listed one is, but not what it speaks.
static bool comes_from_the_registry(const char *topic, json_t *value) {
    if (strstr(topic, "/telemetry/") != NULL || ends_with(topic, "/last_active") ||
        ends_with(topic, "/alarms"))
        return false;
    if (json_object_get(value, "protocol_id") != NULL)
        json_object_set_new(value, "protocol_id", json_null());
    if (json_object_get(value, "device") != NULL)
        json_object_del(json_object_get(value, "device"), "model");
    return !ends_with(topic, "/config") || ends_with(topic, "/position/config") ||
           ends_with(topic, "/connected/config") || ends_with(topic, "/last_seen/config");
}

static json_t *without_what_sleepers_said(const json_t *before) {
    json_t *left = json_deep_copy(before), *value;
    const char *topic;
    void *next;
    json_object_foreach_safe(left, next, topic, value) {
        for (size_t i = 0; i < DEVICES; i++)
            if (!devices[i].connected && is_of(topic, &devices[i]) &&
                !(devices[i].listed && comes_from_the_registry(topic, value))) {
                json_object_del(left, topic);
                break;
            }
    }
    return left;
}

// --- the devices ---

static void come(struct rig *rig, bool connected) {
    for (size_t i = 0; i < DEVICES; i++) {
        if (devices[i].connected != connected)
            continue;
        int device = rig_tcp(rig);
        say(rig, device, devices[i].ident, "R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+1");
        if (!connected)
            close(device);
    }
}

// --- the restarts ---

static void end_broker(struct rig *rig, const struct row *row) {
    if (row->broker == RUNS)
        return;
    rig_broker_kill(rig);
    if (row->broker == LOST)
        rig_broker_wipe(rig);
}

static void end_gateway(struct rig *rig, const struct row *row) {
    if (row->gateway == KILLED)
        rig_gateway_kill(rig);
    if (row->gateway == STOPPED)
        rig_gateway_stop(rig);
}

static void start_broker(struct rig *rig, const struct row *row) {
    if (row->broker == SAVED)
        rig_broker_restore(rig);
    if (row->broker != RUNS)
        rig_broker_start(rig, SAVES);
}

static void start_gateway(struct rig *rig, const struct row *row) {
    if (row->gateway != STAYS)
        rig_gateway_start(rig, GATEWAY);
}

static void restart(struct rig *rig, const struct row *row) {
    bool broker_first = row->first == BROKER_FIRST;
    if (row->broker == SAVED)
        rig_broker_save(rig);
    (broker_first ? end_broker : end_gateway)(rig, row);
    (broker_first ? end_gateway : end_broker)(rig, row);
    (broker_first ? start_broker : start_gateway)(rig, row);
    (broker_first ? start_gateway : start_broker)(rig, row);
}

static void check_row(const struct row *row) {
    struct rig *rig = rig_with_broker(SAVES);
    rig_gateway_start(rig, GATEWAY);
    rig_expect_state(rig);
    come(rig, true);
    come(rig, false);
    cr_assert(rig_wait(is_complete, rig, RIG_DEADLINE), "%s: not all is retained", row->name);
    json_t *before = retained(rig);
    restart(rig, row);
    if (row->gateway != STAYS)
        come(rig, true);
    if (row->until_reports) {
        json_t *left = without_what_sleepers_said(before);
        expect_retained(rig, left, row, "before the sleeping devices report");
        json_decref(left);
        come(rig, false);
    }
    expect_retained(rig, before, row, "at the end");
    json_decref(before);
    rig_finish(rig);
}

// One test each, so that they run side by side.
#define ROW(number)                                                                                          \
    STORY(restarts, row_##number) {                                                                          \
        check_row(&rows[number]);                                                                            \
    }

ROW(0)
ROW(1)
ROW(2)
ROW(3)
ROW(4)
ROW(5)
ROW(6)
ROW(7)
ROW(8)
ROW(9)
ROW(10)
ROW(11)

_Static_assert(ROWS == 12, "a test for each row");
