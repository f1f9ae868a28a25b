// The scripted broker: what a test makes it do at once, and what it asks it; see scripted_broker.h.
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "tests/e2e/scripted_broker_parts.h"

// --- doing ---

static bool is_client(const char *pattern, const char *client) {
    return pattern == NULL || fnmatch(pattern, client, 0) == 0;
}

void scripted_broker_disconnect(struct scripted_broker *broker, const char *client, uint8_t reason) {
    struct connection *connection;
    lock(broker);
    DL_FOREACH(broker->connections, connection)
    if (connection->session != NULL && is_client(client, connection->session->client))
        disconnect(broker, connection, reason, NULL, "by the test");
    unlock(broker);
}

static struct message *latest_will(const struct scripted_broker *broker, const char *client) {
    for (size_t i = broker->connects.count; i-- > 0;) {
        const struct past_connect *past = broker->connects.items[i];
        if (past->is.end != NULL && past->will != NULL && strcmp(past->is.client, client) == 0)
            return past->will;
    }
    return NULL;
}

void scripted_broker_publish_will(struct scripted_broker *broker, const char *client) {
    lock(broker);
    struct message *will = latest_will(broker, client);
    if (will != NULL)
        route(broker, will, NULL, false);
    unlock(broker);
    cr_assert(will != NULL, "no connection of %s that has ended had a Last Will", client);
}

void scripted_broker_publish(struct scripted_broker *broker, const char *topic, const char *payload,
                             bool retain) {
    struct bytes bytes = {(const uint8_t *)payload, strlen(payload)};
    struct message *message = message_new(topic, bytes, 1, retain, (struct bytes){0});
    lock(broker);
    route(broker, message, NULL, false);
    message_drop(message);
    unlock(broker);
}

void scripted_broker_forget_retained(struct scripted_broker *broker, const char *filter) {
    lock(broker);
    forget_retained(&broker->state, filter);
    unlock(broker);
}

void scripted_broker_restore_retained(struct scripted_broker *broker) {
    lock(broker);
    copy_retained(&broker->state, &broker->snapshot);
    unlock(broker);
}

// --- asking: each kind of thing that came has a look for what the test wants of it ---

struct wanted {
    const char *client, *filter, *containing;
};

typedef bool wanted_check(const void *item, const struct wanted *wanted);

static bool connect_is_wanted(const void *item, const struct wanted *wanted) {
    return is_client(wanted->client, ((const struct scripted_connect *)item)->client);
}

static bool publish_is_wanted(const void *item, const struct wanted *wanted) {
    const struct scripted_publish *publish = item;
    if (wanted->filter != NULL && !topic_matches(wanted->filter, publish->topic))
        return false;
    return wanted->containing == NULL ||
           memmem(publish->payload, publish->length, wanted->containing, strlen(wanted->containing)) != NULL;
}

static bool subscribe_is_wanted(const void *item, const struct wanted *wanted) {
    const struct scripted_subscribe *subscribe = item;
    return is_client(wanted->client, subscribe->client) &&
           (wanted->filter == NULL || strcmp(wanted->filter, subscribe->filter) == 0);
}

// How many there are, at most so many; and the last of these.
static size_t look(struct scripted_broker *broker, const struct past *past, wanted_check *check,
                   const struct wanted *wanted, size_t most, const void **last) {
    size_t count = 0;
    lock(broker);
    for (size_t i = 0; i < past->count && count < most; i++)
        if (check(past->items[i], wanted)) {
            count++;
            *last = past->items[i];
        }
    unlock(broker);
    return count;
}

static size_t count_of(struct scripted_broker *broker, const struct past *past, wanted_check *check,
                       const struct wanted *wanted) {
    const void *last;
    return look(broker, past, check, wanted, SIZE_MAX, &last);
}

static const void *nth_of(struct scripted_broker *broker, const struct past *past, wanted_check *check,
                          const struct wanted *wanted, size_t nth) {
    const void *last = NULL;
    return look(broker, past, check, wanted, nth + 1, &last) == nth + 1 ? last : NULL;
}

size_t scripted_broker_connects(struct scripted_broker *broker, const char *client) {
    return count_of(broker, &broker->connects, connect_is_wanted, &(struct wanted){.client = client});
}

const struct scripted_connect *scripted_broker_connect_at(struct scripted_broker *broker, const char *client,
                                                          size_t nth) {
    return nth_of(broker, &broker->connects, connect_is_wanted, &(struct wanted){.client = client}, nth);
}

size_t scripted_broker_publishes(struct scripted_broker *broker, const char *filter, const char *containing) {
    const struct wanted wanted = {.filter = filter, .containing = containing};
    return count_of(broker, &broker->publishes, publish_is_wanted, &wanted);
}

const struct scripted_publish *scripted_broker_publish_at(struct scripted_broker *broker, const char *filter,
                                                          const char *containing, size_t nth) {
    const struct wanted wanted = {.filter = filter, .containing = containing};
    return nth_of(broker, &broker->publishes, publish_is_wanted, &wanted, nth);
}

size_t scripted_broker_subscribes(struct scripted_broker *broker, const char *client, const char *filter) {
    const struct wanted wanted = {.client = client, .filter = filter};
    return count_of(broker, &broker->subscribes, subscribe_is_wanted, &wanted);
}

const struct scripted_subscribe *scripted_broker_subscribe_at(struct scripted_broker *broker,
                                                              const char *client, const char *filter,
                                                              size_t nth) {
    const struct wanted wanted = {.client = client, .filter = filter};
    return nth_of(broker, &broker->subscribes, subscribe_is_wanted, &wanted, nth);
}

bool scripted_broker_is_connected(struct scripted_broker *broker, const char *client) {
    const struct connection *connection;
    bool is = false;
    lock(broker);
    DL_FOREACH(broker->connections, connection)
    is |= connection->session != NULL && is_client(client, connection->session->client);
    unlock(broker);
    return is;
}

char *scripted_broker_retained(struct scripted_broker *broker, const char *topic) {
    lock(broker);
    const struct message *message = find_retained(broker, topic);
    char *text = message != NULL ? bytes_text((struct bytes){message->payload, message->length}) : NULL;
    unlock(broker);
    return text;
}

size_t scripted_broker_count_retained(struct scripted_broker *broker, const char *filter) {
    size_t count = 0;
    lock(broker);
    for (size_t i = 0; i < broker->state.retained_count; i++)
        count += topic_matches(filter, broker->state.retained[i]->topic);
    unlock(broker);
    return count;
}

// --- forgetting ---

static void free_connect(struct past_connect *past) {
    message_drop(past->will);
    free((char *)past->is.client);
    free((char *)past->is.username);
    free((char *)past->is.password);
    free((char *)past->is.will_topic);
    free((char *)past->is.will_payload);
    free((char *)past->is.will_user_properties);
    free(past);
}

// Those of connections that last are still needed.
static void forget_connects(struct past *past) {
    size_t kept = 0;
    for (size_t i = 0; i < past->count; i++) {
        struct past_connect *connect = past->items[i];
        if (connect->is.end == NULL)
            past->items[kept++] = connect;
        else
            free_connect(connect);
    }
    past->count = kept;
}

static void free_publish(struct scripted_publish *past) {
    free((char *)past->client);
    free((char *)past->topic);
    free((char *)past->payload);
    free((char *)past->response_topic);
    free((char *)past->correlation);
    free((char *)past->content_type);
    free((char *)past->user_properties);
    free(past);
}

static void free_subscribe(struct scripted_subscribe *past) {
    free((char *)past->client);
    free((char *)past->filter);
    free(past);
}

void scripted_broker_forget_past(struct scripted_broker *broker) {
    lock(broker);
    forget_connects(&broker->connects);
    for (size_t i = 0; i < broker->publishes.count; i++)
        free_publish(broker->publishes.items[i]);
    for (size_t i = 0; i < broker->subscribes.count; i++)
        free_subscribe(broker->subscribes.items[i]);
    broker->publishes.count = broker->subscribes.count = 0;
    unlock(broker);
}

// --- waiting ---

struct waiting {
    struct scripted_broker *broker;
    const char *client, *filter, *containing, *text;
    size_t at_least;
    int rule;
    bool connected;
    char *came;
};

static bool has_connects(void *context) {
    const struct waiting *it = context;
    return scripted_broker_connects(it->broker, it->client) >= it->at_least;
}

const struct scripted_connect *scripted_expect_connects(struct scripted_broker *broker, const char *client,
                                                        size_t at_least) {
    struct waiting it = {.broker = broker, .client = client, .at_least = at_least};
    cr_assert(rig_wait(has_connects, &it, RIG_DEADLINE), "%zu CONNECT of %s, expected %zu",
              scripted_broker_connects(broker, client), client, at_least);
    return scripted_broker_connect_at(broker, client, at_least - 1);
}

static bool is_as_connected(void *context) {
    const struct waiting *it = context;
    return scripted_broker_is_connected(it->broker, it->client) == it->connected;
}

void scripted_expect_connected(struct scripted_broker *broker, const char *client) {
    struct waiting it = {.broker = broker, .client = client, .connected = true};
    cr_assert(rig_wait(is_as_connected, &it, RIG_DEADLINE), "%s does not connect", client);
}

void scripted_expect_ended(struct scripted_broker *broker, const char *client) {
    struct waiting it = {.broker = broker, .client = client};
    cr_assert(rig_wait(is_as_connected, &it, RIG_DEADLINE), "%s stays connected", client);
}

static bool has_publishes(void *context) {
    const struct waiting *it = context;
    return scripted_broker_publishes(it->broker, it->filter, it->containing) >= it->at_least;
}

const struct scripted_publish *scripted_expect_publishes(struct scripted_broker *broker, const char *filter,
                                                         const char *containing, size_t at_least) {
    struct waiting it = {.broker = broker, .filter = filter, .containing = containing, .at_least = at_least};
    cr_assert(rig_wait(has_publishes, &it, RIG_DEADLINE), "%zu publishes to %s, expected %zu",
              scripted_broker_publishes(broker, filter, containing), filter, at_least);
    return scripted_broker_publish_at(broker, filter, containing, at_least - 1);
}

static bool has_subscribes(void *context) {
    const struct waiting *it = context;
    return scripted_broker_subscribes(it->broker, it->client, it->filter) >= it->at_least;
}

const struct scripted_subscribe *scripted_expect_subscribes(struct scripted_broker *broker,
                                                            const char *client, const char *filter,
                                                            size_t at_least) {
    struct waiting it = {.broker = broker, .client = client, .filter = filter, .at_least = at_least};
    cr_assert(rig_wait(has_subscribes, &it, RIG_DEADLINE), "%zu SUBSCRIBE to %s, expected %zu",
              scripted_broker_subscribes(broker, client, filter), filter, at_least);
    return scripted_broker_subscribe_at(broker, client, filter, at_least - 1);
}

static bool has_hits(void *context) {
    const struct waiting *it = context;
    return scripted_broker_hits(it->broker, it->rule) >= it->at_least;
}

void scripted_expect_hits(struct scripted_broker *broker, int rule, unsigned at_least) {
    struct waiting it = {.broker = broker, .rule = rule, .at_least = at_least};
    cr_assert(rig_wait(has_hits, &it, RIG_DEADLINE), "rule %d acted %u times, expected %u", rule,
              scripted_broker_hits(broker, rule), at_least);
}

static bool is_retained(void *context) {
    struct waiting *it = context;
    free(it->came);
    it->came = scripted_broker_retained(it->broker, it->filter);
    return it->text == NULL || it->came == NULL ? it->text == it->came : strcmp(it->text, it->came) == 0;
}

void scripted_expect_retained(struct scripted_broker *broker, const char *topic, const char *text) {
    struct waiting it = {.broker = broker, .filter = topic, .text = text};
    bool is = rig_wait(is_retained, &it, RIG_DEADLINE);
    cr_assert(is, "retained on %s: %s, expected: %s", topic, it.came != NULL ? it.came : "nothing",
              text != NULL ? text : "nothing");
    free(it.came);
}
