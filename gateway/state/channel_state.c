// What is retained for channels; see channel_state.h.
#include "gateway/state/channel_state.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/address.h"
#include "gateway/base/memory.h"

// A channel that only others have, and whose sum is due; or one that we have said something of in an earlier run, which
// is to be cleared.
struct due_channel {
    int64_t id;
    UT_hash_handle hh;
};

struct channel_state {
    const struct config *config;
    const struct bus *bus;
    struct publisher *publisher;
    struct guard *guard;
    struct instances *instances;
    const struct channel *channels; // ours
    size_t count;
    bool *due;                  // one per channel
    struct due_channel *others; // that are due
    struct due_channel *stale;  // that are to be cleared
    uint64_t last;              // number in the outbox of what was published last
};

// --- what is due ---

// NULL when it is not ours.
static const struct config_channel *own_channel(const struct channel_state *channel_state, int64_t id) {
    for (size_t i = 0; i < channel_state->count; i++)
        if (channel_state->config->channels[i].id == id)
            return &channel_state->config->channels[i];
    return NULL;
}

void channel_state_changed(struct channel_state *channel_state, const struct config_channel *channel) {
    channel_state->due[channel - channel_state->config->channels] = true;
    publisher_wake(channel_state->publisher);
}

static void is_due(struct channel_state *channel_state, struct due_channel **list, int64_t id) {
    struct due_channel *due;
    HASH_FIND(hh, *list, &id, sizeof id, due);
    if (due == NULL) {
        due = must_have(calloc(1, sizeof *due));
        due->id = id;
        HASH_ADD(hh, *list, id, sizeof due->id, due);
    }
    publisher_wake(channel_state->publisher);
}

static void on_channel_changed(void *context, int64_t id) {
    struct channel_state *channel_state = context;
    const struct config_channel *own = own_channel(channel_state, id);
    if (own != NULL)
        channel_state_changed(channel_state, own);
    else
        is_due(channel_state, &channel_state->others, id);
}

static void on_all_changed(void *context) {
    struct channel_state *channel_state = context;
    for (size_t i = 0; i < channel_state->count; i++)
        channel_state_changed(channel_state, &channel_state->config->channels[i]);
    instances_each_channel(channel_state->instances, on_channel_changed, channel_state);
}

void channel_state_all_changed(struct channel_state *channel_state) {
    on_all_changed(channel_state);
}

// --- publishing ---

static void set_sum(const struct channel_state *channel_state, json_t *state, int64_t id, int64_t own) {
    int64_t sum = own + instances_connections(channel_state->instances, id);
    json_object_set_new(state, "connections", json_integer((json_int_t)sum));
}

static void publish_sum(const struct channel_state *channel_state, json_t *state, int64_t id, int64_t own) {
    set_sum(channel_state, state, id, own);
    bus_publish(channel_state->bus, state, MQTT_RETAINED, TOPIC_STATE TOPIC_CHANNELS "%lld", (long long)id);
}

// Where devices connect, or null.
static json_t *describe(const struct channel *channel, const struct config_channel *config) {
    char tcp[ADDRESS_TEXT_MAX], udp[ADDRESS_TEXT_MAX];
    return must_have(json_pack("{s:I, s:s, s:i, s:s, s:s?, s:s?, s:I}", "id", (json_int_t)config->id, "name",
                               config->name, "protocol_id", (int)config->codec->id, "protocol_name",
                               config->codec->name, "tcp", channel_tcp_name(channel, tcp), "udp",
                               channel_udp_name(channel, udp), "connections",
                               (json_int_t)channel_connections(channel)));
}

static void publish_own(struct channel_state *channel_state, size_t i) {
    const struct config_channel *config = &channel_state->config->channels[i];
    const struct channel *channel = &channel_state->channels[i];
    json_t *state = describe(channel, config);
    if (!channel_state->config->commands.intake)
        bus_publish(channel_state->bus, state, MQTT_RETAINED,
                    TOPIC_STATE TOPIC_INSTANCES "%s/" TOPIC_CHANNELS "%lld",
                    bus_client_id(channel_state->bus), (long long)config->id);
    if (instances_sum_here(channel_state->instances))
        publish_sum(channel_state, state, config->id, (int64_t)channel_connections(channel));
    json_decref(state);
    channel_state->due[i] = false;
}

static bool publish_ours(struct channel_state *channel_state) {
    bool all = true;
    for (size_t i = 0; i < channel_state->count; i++) {
        if (channel_state->due[i] && bus_keeps_up(channel_state->bus))
            publish_own(channel_state, i);
        all = all && !channel_state->due[i];
    }
    return all;
}

// As published by one of those that have it.
static void publish_other(const struct channel_state *channel_state, int64_t id) {
    const json_t *known = instances_channel(channel_state->instances, id);
    if (known == NULL)
        return;
    json_t *state = must_have(json_copy((json_t *)known));
    publish_sum(channel_state, state, id, 0);
    json_decref(state);
}

static void drop_due(struct due_channel **list, struct due_channel *due) {
    HASH_DEL(*list, due);
    free(due);
}

static bool publish_others(struct channel_state *channel_state) {
    struct due_channel *due, *next;
    HASH_ITER(hh, channel_state->others, due, next) {
        if (!bus_keeps_up(channel_state->bus))
            return false;
        publish_other(channel_state, due->id);
        drop_due(&channel_state->others, due);
    }
    return true;
}

// What the instance says of a channel is for the one that adds them up, when that is another.
static bool is_stale(const struct channel_state *channel_state, int64_t id) {
    return channel_state->config->commands.intake || own_channel(channel_state, id) == NULL;
}

static bool clear_stale(struct channel_state *channel_state) {
    struct due_channel *due, *next;
    HASH_ITER(hh, channel_state->stale, due, next) {
        if (!bus_keeps_up(channel_state->bus))
            return false;
        if (is_stale(channel_state, due->id))
            bus_publish(channel_state->bus, NULL, MQTT_RETAINED,
                        TOPIC_STATE TOPIC_INSTANCES "%s/" TOPIC_CHANNELS "%lld",
                        bus_client_id(channel_state->bus), (long long)due->id);
        drop_due(&channel_state->stale, due);
    }
    return true;
}

static bool is_any_due(const struct channel_state *channel_state) {
    for (size_t i = 0; i < channel_state->count; i++)
        if (channel_state->due[i])
            return true;
    return channel_state->others != NULL || channel_state->stale != NULL;
}

static bool publish(void *context) {
    struct channel_state *channel_state = context;
    // We might say what is another's to say; and two writes to one topic are never under way at once.
    if (!instances_are_known(channel_state->instances) ||
        !bus_has_taken(channel_state->bus, channel_state->last))
        return false;
    bool any = is_any_due(channel_state), ours = publish_ours(channel_state);
    bool others = publish_others(channel_state), all = clear_stale(channel_state) && ours && others;
    if (any)
        channel_state->last = bus_last_number(channel_state->bus);
    return all;
}

// --- what the broker has ---

// What is retained of a channel of ours comes to this; for the caller to release. NULL: it is not ours.
static json_t *state_of(const struct channel_state *channel_state, int64_t id, bool sum) {
    const struct config_channel *config = own_channel(channel_state, id);
    if (config == NULL)
        return NULL;
    const struct channel *channel = &channel_state->channels[config - channel_state->config->channels];
    json_t *state = describe(channel, config);
    if (sum)
        set_sum(channel_state, state, id, (int64_t)channel_connections(channel));
    return state;
}

static void compare(struct channel_state *channel_state, int64_t id, bool sum, const char *topic,
                    const struct mqtt_received *received) {
    json_t *ours = state_of(channel_state, id, sum);
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    if (ours != NULL && json_equal(ours, json))
        guard_right(channel_state->guard, topic);
    else if (ours != NULL)
        guard_wrong(channel_state->guard, topic);
    json_decref(json);
    json_decref(ours);
}

void channel_state_received(struct channel_state *channel_state, const char *topic,
                            const struct mqtt_received *received) {
    const char *instance = topic_after(topic, TOPIC_INSTANCES),
               *rest = instance != NULL ? bus_after_own(channel_state->bus, instance) : NULL;
    int64_t id = rest != NULL ? instances_channel_of(rest) : 0;
    bool stale = is_stale(channel_state, id);
    if (id > 0 && stale && received->retain && received->length > 0)
        is_due(channel_state, &channel_state->stale, id);
    if (id > 0 && !stale && !received->retain)
        compare(channel_state, id, false, topic, received);
}

void channel_state_heard_sum(struct channel_state *channel_state, const char *topic,
                             const struct mqtt_received *received) {
    int64_t id = strtoll(topic + strlen(TOPIC_CHANNELS), NULL, 10);
    if (!received->retain && instances_are_known(channel_state->instances) &&
        instances_sum_here(channel_state->instances))
        compare(channel_state, id, true, topic, received);
}

void channel_state_again(struct channel_state *channel_state, const char *topic) {
    const struct config_channel *own = own_channel(channel_state, strtoll(strrchr(topic, '/') + 1, NULL, 10));
    if (own != NULL)
        channel_state_changed(channel_state, own);
}

struct channel_state *channel_state_new(const struct config *config, const struct bus *bus,
                                        struct publisher *publisher, struct guard *guard,
                                        struct instances *instances, const struct channel *channels,
                                        size_t count) {
    struct channel_state *channel_state = must_have(malloc(sizeof *channel_state));
    *channel_state = (struct channel_state){.config = config,
                                            .bus = bus,
                                            .publisher = publisher,
                                            .guard = guard,
                                            .instances = instances,
                                            .channels = channels,
                                            .count = count,
                                            .due = must_have(calloc(count + 1, sizeof(bool)))};
    instances_set_handlers(instances, &(struct instances_handlers){.context = channel_state,
                                                                   .channel_changed = on_channel_changed,
                                                                   .all_changed = on_all_changed});
    publisher_add(publisher, publish, channel_state);
    return channel_state;
}

void channel_state_free(struct channel_state *channel_state) {
    while (channel_state->others != NULL)
        drop_due(&channel_state->others, channel_state->others);
    while (channel_state->stale != NULL)
        drop_due(&channel_state->stale, channel_state->stale);
    free(channel_state->due);
    free(channel_state);
}
