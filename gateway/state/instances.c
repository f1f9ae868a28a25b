// The other instances on the broker; see instances.h.
#include "gateway/state/instances.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/run/gateway.h"

#define STATE_MAX       4096       // bytes of a state that is read
#define CONNECTIONS_MAX 1000000000 // that is believed

// What an instance says of a channel.
struct remote_channel {
    int64_t id;
    json_t *state;
    bool due; // the sum has to be published again
    struct remote_channel *next;
};

struct instance {
    char *client_id;
    bool online;
    struct remote_channel *channels;
    UT_hash_handle hh;
};

// --- the table ---

static struct instance *find_or_make(struct instance_table *table, const char *client_id, size_t length) {
    struct instance *instance;
    HASH_FIND(hh, table->by_id, client_id, length, instance);
    if (instance != NULL)
        return instance;
    instance = must_have(calloc(1, sizeof *instance));
    instance->client_id = must_have(strndup(client_id, length));
    HASH_ADD_KEYPTR(hh, table->by_id, instance->client_id, length, instance);
    return instance;
}

static struct remote_channel *find_channel(const struct instance *instance, int64_t id) {
    struct remote_channel *channel;
    LL_SEARCH_SCALAR(instance->channels, channel, id, id);
    return channel;
}

static void remove_channel(struct instance *instance, struct remote_channel *channel) {
    LL_DELETE(instance->channels, channel);
    json_decref(channel->state);
    free(channel);
}

void instances_free(struct gateway *gateway) {
    struct instance *instance, *next;
    HASH_ITER(hh, gateway->instances.by_id, instance, next) {
        while (instance->channels != NULL)
            remove_channel(instance, instance->channels);
        HASH_DEL(gateway->instances.by_id, instance);
        free(instance->client_id);
        free(instance);
    }
}

static bool any_online(const struct instance_table *table) {
    const struct instance *instance;
    for (instance = table->by_id; instance != NULL; instance = instance->hh.next)
        if (instance->online)
            return true;
    return false;
}

bool instances_sum_here(const struct gateway *gateway) {
    return gateway->config->commands.intake || !any_online(&gateway->instances);
}

int64_t instances_connections(const struct gateway *gateway, int64_t channel_id) {
    const struct instance *instance;
    int64_t sum = 0;
    for (instance = gateway->instances.by_id; instance != NULL; instance = instance->hh.next) {
        const struct remote_channel *channel = find_channel(instance, channel_id);
        if (instance->online && channel != NULL)
            sum += json_integer_value(json_object_get(channel->state, "connections"));
    }
    return sum;
}

// --- what is due ---

static struct channel *own_channel(const struct gateway *gateway, int64_t id) {
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        if (gateway->config->channels[i].id == id)
            return &gateway->channels[i];
    return NULL;
}

static void channel_is_due(struct gateway *gateway, struct remote_channel *remote) {
    struct channel *own = own_channel(gateway, remote->id);
    remote->due = own == NULL;
    if (own != NULL)
        channel_changed(own);
    state_is_due(gateway);
}

static void all_are_due(struct gateway *gateway) {
    struct instance *instance;
    struct remote_channel *channel;
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        channel_changed(&gateway->channels[i]);
    for (instance = gateway->instances.by_id; instance != NULL; instance = instance->hh.next)
        LL_FOREACH(instance->channels, channel)
    channel_is_due(gateway, channel);
}

// The state of a channel that we do not have, as one of those says that have it; online ones first. Nothing
// of it is due any more.
static const json_t *take_due(struct gateway *gateway, int64_t id) {
    struct instance *instance;
    const json_t *state = NULL;
    bool online = false;
    for (instance = gateway->instances.by_id; instance != NULL; instance = instance->hh.next) {
        struct remote_channel *channel = find_channel(instance, id);
        if (channel == NULL)
            continue;
        channel->due = false;
        if (state == NULL || (instance->online && !online)) {
            state = channel->state;
            online = instance->online;
        }
    }
    return state;
}

static void publish_sum(struct gateway *gateway, int64_t id) {
    json_t *state = must_have(json_copy((json_t *)take_due(gateway, id)));
    json_object_set_new(state, "connections", json_integer(instances_connections(gateway, id)));
    gateway_publish(gateway, state, MQTT_RETAINED, "state/gw/channels/%lld", (long long)id);
    json_decref(state);
}

bool instances_publish(struct gateway *gateway) {
    struct instance *instance;
    struct remote_channel *channel;
    for (instance = gateway->instances.by_id; instance != NULL; instance = instance->hh.next)
        LL_FOREACH(instance->channels, channel) {
            if (channel->due && !outbox_keeps_up(gateway->outbox))
                return false;
            if (channel->due)
                publish_sum(gateway, channel->id);
        }
    return true;
}

// --- what the broker says ---

void instances_begin(struct gateway *gateway) {
    instances_free(gateway);
    gateway->instances.known = false;
}

static void end_waiting(struct gateway *gateway) {
    if (gateway->instances.known)
        return;
    gateway->instances.known = true;
    all_are_due(gateway);
}

// The sum is ours to say whoever there is, and what comes late is added to it.
void instances_answered(struct gateway *gateway) {
    if (gateway->config->commands.intake)
        end_waiting(gateway);
}

void instances_settled(struct gateway *gateway) {
    end_waiting(gateway);
}

static json_t *read_state(const struct mqtt_received *received) {
    json_t *state =
        received->length <= STATE_MAX ? json_loadb(received->payload, received->length, 0, NULL) : NULL;
    if (state != NULL && !json_is_object(state)) {
        json_decref(state);
        state = NULL;
    }
    return state;
}

static void hear_instance(struct gateway *gateway, struct instance *instance,
                          const struct mqtt_received *received) {
    json_t *json = read_state(received);
    const char *state = json_string_value(json_object_get(json, "state"));
    bool online = state != NULL && strcmp(state, "online") == 0;
    json_decref(json);
    if (online != instance->online) {
        instance->online = online;
        all_are_due(gateway);
    }
}

static void hear_channel(struct gateway *gateway, struct instance *instance, int64_t id,
                         const struct mqtt_received *received) {
    struct remote_channel *channel = find_channel(instance, id);
    json_t *state = read_state(received);
    const json_t *count = json_object_get(state, "connections");
    bool valid = json_is_integer(count) && json_integer_value(count) >= 0 &&
                 json_integer_value(count) <= CONNECTIONS_MAX;
    if (!valid) {
        json_decref(state);
        state = json_pack("{s:I, s:i}", "id", (json_int_t)id, "connections", 0);
    }
    if (channel == NULL) {
        channel = must_have(calloc(1, sizeof *channel));
        channel->id = id;
        LL_APPEND(instance->channels, channel);
    }
    json_decref(channel->state);
    channel->state = state;
    channel_is_due(gateway, channel);
}

// What we said of a channel in an earlier run, and do not say any more.
static void hear_own_channel(struct gateway *gateway, int64_t id, const struct mqtt_received *received) {
    bool stale = gateway->config->commands.intake || own_channel(gateway, id) == NULL;
    if (received->retain && received->length > 0 && stale)
        gateway_publish(gateway, NULL, MQTT_RETAINED, "state/gw/instances/%s/channels/%lld",
                        gateway->config->mqtt.client_id, (long long)id);
}

void instances_heard(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    static const char channels[] = "/channels/";
    const char *client_id = gateway->config->mqtt.client_id, *rest = topic + strcspn(topic, "/");
    size_t length = (size_t)(rest - topic);
    bool own = length == strlen(client_id) && memcmp(topic, client_id, length) == 0;
    bool of_channel = strncmp(rest, channels, sizeof channels - 1) == 0;
    const char *digits = of_channel ? rest + sizeof channels - 1 : "";
    int64_t id = strtoll(digits, NULL, 10);
    of_channel = of_channel && id > 0 && digits[strspn(digits, "0123456789")] == '\0';
    if (own && of_channel)
        hear_own_channel(gateway, id, received);
    else if (own && *rest == '\0')
        gateway->state.retained = gateway->state.retained || received->retain;
    else if (!own && of_channel)
        hear_channel(gateway, find_or_make(&gateway->instances, topic, length), id, received);
    else if (!own && *rest == '\0')
        hear_instance(gateway, find_or_make(&gateway->instances, topic, length), received);
}
