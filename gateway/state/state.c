// When retained state is published; see state.h.
#include "gateway/state/state.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/run/gateway.h"
#include "gateway/state/reader.h"

#define INTERVAL   100  // milliseconds between attempts to publish what is due
#define CLEAR_TIME 1000 // milliseconds that a broker is given to say what it retains of a device's telemetry
#define CLEAR_MAX  20   // devices for which it is asked at once, lest it has to say too much

// A device whose telemetry goes. Which topics there are only the broker knows: it is asked for them.
struct state_leaving {
    int64_t device_id;
    bool removed;   // what else stood retained of it
    uint64_t asked; // when, by uv_now(); 0: not yet
    UT_hash_handle hh;
};

// --- instance and channels ---

// The text of an instance's state; none of one that there will not be again. For the caller to free.
static char *instance_text(const struct gateway *gateway, bool online) {
    if (!online && gateway->config->hand_over)
        return must_have(strdup(""));
    json_t *state =
        online ? json_pack("{s:s, s:s, s:f, s:b}", "state", "online", "version", TRACKBUS_VERSION, "started",
                           (double)gateway->started / 1e6, "full", outbox_is_full(gateway->outbox))
               : json_pack("{s:s}", "state", "offline");
    char *text = must_have(json_dumps(state, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(16)));
    json_decref(state);
    return text;
}

void state_publish_instance(struct gateway *gateway, bool online) {
    char *text = instance_text(gateway, online);
    char topic[300];
    int mid;
    snprintf(topic, sizeof topic, "%s/state/gw/instances/%s", gateway->config->mqtt.topic_prefix,
             gateway->config->mqtt.client_id);
    mqtt_link_publish(
        gateway->link,
        &(struct mqtt_publish){
            .topic = topic, .payload = text, .length = strlen(text), .qos = 1, .retain = MQTT_RETAINED},
        &mid);
    free(text);
}

static bool publish_channels(struct gateway *gateway) {
    bool all = gateway->instances.known; // before that we might say what is another's to say
    if (!all)
        return false;
    for (size_t i = 0; i < gateway->config->channel_count; i++) {
        if (gateway->channels[i].state_due && outbox_keeps_up(gateway->outbox))
            channel_publish_state(&gateway->channels[i]);
        all = all && !gateway->channels[i].state_due;
    }
    return instances_publish(gateway) && all;
}

// --- devices that go ---

static struct state_leaving *find_leaving(const struct gateway *gateway, int64_t device_id) {
    struct state_leaving *leaving;
    HASH_FIND(hh, gateway->state.leaving, &device_id, sizeof device_id, leaving);
    return leaving;
}

static void telemetry_filter(const struct gateway *gateway, int64_t device_id, char *filter,
                             size_t capacity) {
    snprintf(filter, capacity, "%s/state/gw/devices/%lld/telemetry/+", gateway->config->mqtt.topic_prefix,
             (long long)device_id);
}

static void ask(struct gateway *gateway, struct state_leaving *leaving) {
    char filter[300];
    telemetry_filter(gateway, leaving->device_id, filter, sizeof filter);
    if (mqtt_link_subscribe(gateway->link, filter))
        leaving->asked = uv_now(&gateway->loop);
}

static void end_leaving(struct gateway *gateway, struct state_leaving *leaving) {
    char filter[300];
    telemetry_filter(gateway, leaving->device_id, filter, sizeof filter);
    if (leaving->asked != 0)
        mqtt_link_unsubscribe(gateway->link, filter);
    HASH_DEL(gateway->state.leaving, leaving);
    free(leaving);
}

void state_clear(struct gateway *gateway, int64_t device_id) {
    struct state_leaving *leaving = find_leaving(gateway, device_id);
    if (leaving == NULL) {
        leaving = must_have(calloc(1, sizeof *leaving));
        leaving->device_id = device_id;
        leaving->removed = true;
        HASH_ADD(hh, gateway->state.leaving, device_id, sizeof leaving->device_id, leaving);
    }
    gateway->state.unremoved += leaving->removed;
    leaving->removed = false;
    leaving->asked = 0;
    state_is_due(gateway);
}

bool state_clears_telemetry(const struct gateway *gateway, int64_t device_id) {
    return find_leaving(gateway, device_id) != NULL;
}

// As far as the broker keeps up: a registry may lose all its devices at once.
static void remove_devices(struct gateway *gateway) {
    struct state_leaving *leaving, *next;
    HASH_ITER(hh, gateway->state.leaving, leaving, next) {
        if (gateway->state.unremoved == 0 || !outbox_keeps_up(gateway->outbox))
            return;
        if (leaving->removed)
            continue;
        leaving->removed = true;
        gateway->state.unremoved--;
        device_state_remove(gateway, leaving->device_id);
    }
}

static bool go_on_clearing(struct gateway *gateway) {
    struct state_leaving *leaving, *next;
    uint64_t now = uv_now(&gateway->loop);
    unsigned asked = 0;
    HASH_ITER(hh, gateway->state.leaving, leaving, next) {
        if (asked++ == CLEAR_MAX || !leaving->removed)
            break;
        if (leaving->asked == 0)
            ask(gateway, leaving);
        else if (now - leaving->asked > CLEAR_TIME)
            end_leaving(gateway, leaving);
    }
    return gateway->state.leaving == NULL;
}

// --- time ---

bool state_publish(struct gateway *gateway) {
    if (!gateway->state.answered)
        return false; // what is due may be older than what stands there
    bool channels = publish_channels(gateway);
    remove_devices(gateway);
    return device_states_publish(gateway) && channels;
}

// What an earlier run has left in the outbox may be state, and has to be with the broker before that is asked
// what it retains. True once it is asked.
static bool begin_reading(struct gateway *gateway) {
    if (gateway->state.reader == NULL && outbox_keeps_up(gateway->outbox) &&
        outbox_is_rid_of_earlier(gateway->outbox))
        gateway->state.reader = state_reader_new(gateway);
    return gateway->state.reader != NULL;
}

static void on_timer(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    bool read = begin_reading(gateway);
    bool published = state_publish(gateway), cleared = go_on_clearing(gateway);
    if (read && published && cleared)
        uv_timer_stop(timer);
}

void state_is_due(struct gateway *gateway) {
    if (!uv_is_active((uv_handle_t *)&gateway->state.timer) &&
        !uv_is_closing((uv_handle_t *)&gateway->state.timer))
        uv_timer_start(&gateway->state.timer, on_timer, INTERVAL, INTERVAL);
}

void state_start(struct gateway *gateway) {
    uv_timer_init(&gateway->loop, &gateway->state.timer);
    gateway->state.timer.data = gateway;
    device_states_start(gateway);
}

void state_stop(struct gateway *gateway) {
    uv_close((uv_handle_t *)&gateway->state.timer, NULL);
    state_reader_stop(gateway->state.reader);
    while (gateway->state.leaving != NULL)
        end_leaving(gateway, gateway->state.leaving);
}

void state_free(struct gateway *gateway) {
    state_reader_free(gateway->state.reader);
    device_states_free(gateway);
}

// --- the broker ---

void state_link_connected(struct gateway *gateway) {
    gateway->state.retained = false;
    gateway->state.again = gateway->state.answered;
    instances_begin(gateway);
}

void state_link_up(struct gateway *gateway) {
    if (!begin_reading(gateway))
        state_is_due(gateway);
}

void state_link_down(struct gateway *gateway) {
    struct state_leaving *leaving, *next;
    HASH_ITER(hh, gateway->state.leaving, leaving, next) {
        leaving->asked = 0;
    }
}

void state_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    static const char instances[] = "instances/", devices[] = "devices/";
    if (strncmp(topic, devices, sizeof devices - 1) == 0)
        device_states_heard(gateway, topic + sizeof devices - 1, received);
    else if (strncmp(topic, instances, sizeof instances - 1) == 0)
        instances_heard(gateway, topic + sizeof instances - 1, received);
}

void state_answered(struct gateway *gateway) {
    gateway->state.answered = true;
    device_states_settled(gateway);
    state_publish(gateway);
}

void state_settled(struct gateway *gateway) {
    if (!gateway->state.retained && gateway->state.again)
        device_states_restore(gateway);
    instances_settled(gateway);
}
