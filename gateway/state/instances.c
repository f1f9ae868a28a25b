// The other instances on the broker; see instances.h.
#include "gateway/state/instances.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define STATE_MAX       4096       // bytes of a state that is read
#define CONNECTIONS_MAX 1000000000 // that is believed

// What an instance says about a channel.
struct remote_channel {
    int64_t id;
    json_t *state;
    struct remote_channel *next;
};

struct instance {
    char *client_id;
    bool said; // whether it is online: of another only its channels are known
    bool online;
    bool intake;    // it takes commands in
    double started; // its run, as it says; 0: not known
    struct remote_channel *channels;
    size_t channel_count;
    UT_hash_handle hh;
};

struct instances {
    const struct bus *bus;
    bool intake;
    struct instances_handlers handlers;
    instances_gone_fn *gone; // or NULL
    void *gone_context;
    struct instance *by_id; // others
    bool known;             // the broker has said, in this connection, whether there are any
};

// --- the table ---

// NULL beyond INSTANCES_MAX: whoever may write there must not fill our memory.
static struct instance *find_or_make(struct instances *instances, const char *client_id, size_t length) {
    struct instance *instance;
    HASH_FIND(hh, instances->by_id, client_id, length, instance);
    if (instance != NULL || HASH_COUNT(instances->by_id) >= INSTANCES_MAX)
        return instance;
    instance = must_have(calloc(1, sizeof *instance));
    instance->client_id = must_have(strndup(client_id, length));
    HASH_ADD_KEYPTR(hh, instances->by_id, instance->client_id, length, instance);
    return instance;
}

static struct remote_channel *find_channel(const struct instance *instance, int64_t id) {
    struct remote_channel *channel;
    LL_SEARCH_SCALAR(instance->channels, channel, id, id);
    return channel;
}

// NULL beyond INSTANCES_CHANNELS_MAX.
static struct remote_channel *find_or_make_channel(struct instance *instance, int64_t id) {
    struct remote_channel *channel = find_channel(instance, id);
    if (channel != NULL || instance->channel_count >= INSTANCES_CHANNELS_MAX)
        return channel;
    instance->channel_count++;
    channel = must_have(calloc(1, sizeof *channel));
    channel->id = id;
    LL_APPEND(instance->channels, channel);
    return channel;
}

static void remove_channel(struct instance *instance, struct remote_channel *channel) {
    LL_DELETE(instance->channels, channel);
    instance->channel_count--;
    json_decref(channel->state);
    free(channel);
}

static void forget_all(struct instances *instances) {
    struct instance *instance, *next;
    HASH_ITER(hh, instances->by_id, instance, next) {
        while (instance->channels != NULL)
            remove_channel(instance, instance->channels);
        HASH_DEL(instances->by_id, instance);
        free(instance->client_id);
        free(instance);
    }
}

struct instances *instances_new(const struct bus *bus, bool intake) {
    struct instances *instances = must_have(calloc(1, sizeof *instances));
    instances->bus = bus;
    instances->intake = intake;
    return instances;
}

void instances_free(struct instances *instances) {
    forget_all(instances);
    free(instances);
}

// --- what is asked ---

static bool any_online(const struct instances *instances) {
    const struct instance *instance;
    for (instance = instances->by_id; instance != NULL; instance = instance->hh.next)
        if (instance->online)
            return true;
    return false;
}

bool instances_are_known(const struct instances *instances) {
    return instances->known;
}

bool instances_sum_here(const struct instances *instances) {
    return instances->intake || !any_online(instances);
}

bool instances_speak_here(const struct instances *instances) {
    const char *us = bus_client_id(instances->bus);
    const struct instance *instance;
    for (instance = instances->by_id; instance != NULL; instance = instance->hh.next)
        if (instance->online && (instance->intake || strcmp(instance->client_id, us) < 0))
            return instances->intake;
    return true;
}

int64_t instances_connections(const struct instances *instances, int64_t channel_id) {
    const struct instance *instance;
    int64_t sum = 0;
    for (instance = instances->by_id; instance != NULL; instance = instance->hh.next) {
        const struct remote_channel *channel = find_channel(instance, channel_id);
        if (instance->online && channel != NULL)
            sum += json_integer_value(json_object_get(channel->state, "connections"));
    }
    return sum;
}

const json_t *instances_channel(const struct instances *instances, int64_t channel_id) {
    const struct instance *instance;
    const json_t *state = NULL;
    bool online = false;
    for (instance = instances->by_id; instance != NULL; instance = instance->hh.next) {
        const struct remote_channel *channel = find_channel(instance, channel_id);
        if (channel == NULL || (state != NULL && (online || !instance->online)))
            continue;
        state = channel->state;
        online = instance->online;
    }
    return state;
}

void instances_each_channel(const struct instances *instances, void (*fn)(void *context, int64_t channel_id),
                            void *context) {
    const struct instance *instance;
    const struct remote_channel *channel;
    for (instance = instances->by_id; instance != NULL; instance = instance->hh.next)
        LL_FOREACH(instance->channels, channel) {
            fn(context, channel->id);
        }
}

bool instances_any_online(const struct instances *instances) {
    return any_online(instances);
}

void instances_each_offline(const struct instances *instances,
                            void (*fn)(void *context, const char *client_id), void *context) {
    const struct instance *instance;
    for (instance = instances->by_id; instance != NULL; instance = instance->hh.next)
        if (instance->said && !instance->online)
            fn(context, instance->client_id);
}

// --- who is told ---

void instances_set_handlers(struct instances *instances, const struct instances_handlers *handlers) {
    instances->handlers = *handlers;
}

void instances_when_gone(struct instances *instances, instances_gone_fn *gone, void *context) {
    instances->gone = gone;
    instances->gone_context = context;
}

static void tell_channel(const struct instances *instances, int64_t channel_id) {
    if (instances->handlers.channel_changed != NULL)
        instances->handlers.channel_changed(instances->handlers.context, channel_id);
}

static void tell_all(const struct instances *instances) {
    if (instances->handlers.all_changed != NULL)
        instances->handlers.all_changed(instances->handlers.context);
}

// --- what the broker says ---

void instances_begin(struct instances *instances) {
    forget_all(instances);
    instances->known = false;
}

static void end_waiting(struct instances *instances) {
    if (instances->known)
        return;
    instances->known = true;
    tell_all(instances);
}

// The sum is ours to say whoever there is, and what comes late is added to it.
void instances_answered(struct instances *instances) {
    if (instances->intake)
        end_waiting(instances);
}

void instances_settled(struct instances *instances) {
    end_waiting(instances);
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

// Another run of it has begun, so the one before has ended, although nobody said so: a broker sends no Last Will
// for one that is back within a second. What that run said of its channels no longer holds.
static void end_run(struct instance *instance) {
    struct remote_channel *channel;
    LL_FOREACH(instance->channels, channel) {
        json_object_set_new(channel->state, "connections", json_integer(0));
    }
}

static void hear_instance(struct instances *instances, struct instance *instance,
                          const struct mqtt_received *received) {
    json_t *json = read_state(received);
    const char *state = json_string_value(json_object_get(json, "state"));
    bool online = state != NULL && strcmp(state, "online") == 0;
    double started = json_number_value(json_object_get(json, "started"));
    bool news = !instance->said;
    instance->said = true;
    instance->intake = json_object_get(json, "commands") != NULL;
    json_decref(json);
    if (online && instance->online && started != instance->started)
        end_run(instance);
    else if (online == instance->online && !news)
        return;
    instance->online = online;
    instance->started = started;
    tell_all(instances);
    if (!online && instances->gone != NULL)
        instances->gone(instances->gone_context);
}

// One that says nothing we understand has no connections.
static json_t *read_channel(int64_t id, const struct mqtt_received *received) {
    json_t *state = read_state(received);
    const json_t *count = json_object_get(state, "connections");
    if (json_is_integer(count) && json_integer_value(count) >= 0 &&
        json_integer_value(count) <= CONNECTIONS_MAX)
        return state;
    json_decref(state);
    return json_pack("{s:I, s:i}", "id", (json_int_t)id, "connections", 0);
}

static void hear_channel(struct instances *instances, struct instance *instance, int64_t id,
                         const struct mqtt_received *received) {
    struct remote_channel *channel = find_or_make_channel(instance, id);
    if (channel == NULL)
        return;
    json_decref(channel->state);
    channel->state = read_channel(id, received);
    tell_channel(instances, id);
}

int64_t instances_channel_of(const char *rest) {
    static const char channels[] = "/" TOPIC_CHANNELS;
    const char *digits = topic_after(rest, channels);
    if (digits == NULL || digits[strspn(digits, "0123456789")] != '\0')
        return 0;
    return strtoll(digits, NULL, 10);
}

void instances_received(struct instances *instances, const char *topic,
                        const struct mqtt_received *received) {
    const char *rest = topic + strcspn(topic, "/");
    size_t length = (size_t)(rest - topic);
    int64_t channel_id = instances_channel_of(rest);
    if (topic_after(topic, bus_client_id(instances->bus)) == rest || (channel_id <= 0 && *rest != '\0'))
        return; // our own, or nothing of this
    struct instance *instance = find_or_make(instances, topic, length);
    if (instance == NULL)
        return;
    if (channel_id > 0)
        hear_channel(instances, instance, channel_id, received);
    else
        hear_instance(instances, instance, received);
}
