// The rig's MQTT client; see rig.h.
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/libmosquitto.h"
#include "tests/e2e/rig_parts.h"

#define RETRY_INTERVAL 20000 // microseconds between attempts to connect
#define SESSION_EXPIRY 3600  // seconds
#define COUNT_TIME     60000 // milliseconds that many messages may take

struct rig_client {
    struct mosquitto *mosquitto;
    pthread_t thread;
    pthread_mutex_t lock; // of the messages
    struct rig_message **messages;
    size_t count, capacity;
    atomic_bool subscribed, stopping;
    atomic_int acknowledged; // publishes
    int port;
};

// --- receiving ---

static void on_connect(struct mosquitto *mosquitto, void *context, int reason, int flags,
                       const mosquitto_property *properties) {
    if (reason == 0)
        mosquitto_subscribe_v5(mosquitto, NULL, "#", 0, MQTT_SUB_OPT_NO_LOCAL, NULL);
}

static void on_subscribe(struct mosquitto *mosquitto, void *context, int mid, int count, const int *granted,
                         const mosquitto_property *properties) {
    struct rig_client *client = context;
    client->subscribed = true;
}

static void on_publish(struct mosquitto *mosquitto, void *context, int mid, int reason,
                       const mosquitto_property *properties) {
    struct rig_client *client = context;
    client->acknowledged++;
}

static char *read_correlation(const mosquitto_property *properties) {
    void *bytes = NULL;
    uint16_t length = 0;
    if (mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &bytes, &length, false) ==
        NULL)
        return NULL;
    char *text = strndup(bytes, length);
    free(bytes);
    return text;
}

// The only one of that name.
static char *read_timestamp(const mosquitto_property *properties) {
    char *name = NULL, *value = NULL, *found = NULL;
    for (bool again = false; properties != NULL; again = true) {
        properties =
            mosquitto_property_read_string_pair(properties, MQTT_PROP_USER_PROPERTY, &name, &value, again);
        if (properties != NULL && strcmp(name, "timestamp") == 0) {
            free(found);
            found = strdup(found == NULL ? value : "more than one");
        }
        free(name);
        free(value);
        name = value = NULL;
    }
    return found;
}

static void on_message(struct mosquitto *mosquitto, void *context, const struct mosquitto_message *from,
                       const mosquitto_property *properties) {
    struct rig_client *client = context;
    struct rig_message *message = calloc(1, sizeof *message);
    message->topic = strdup(from->topic);
    message->length = (size_t)from->payloadlen;
    message->payload = calloc(1, message->length + 1);
    if (message->length > 0)
        memcpy(message->payload, from->payload, message->length);
    message->retain = from->retain;
    message->correlation = read_correlation(properties);
    message->timestamp = read_timestamp(properties);
    pthread_mutex_lock(&client->lock);
    if (client->count == client->capacity) {
        client->capacity = client->capacity * 2 + 64;
        client->messages = realloc(client->messages, client->capacity * sizeof(void *));
    }
    client->messages[client->count++] = message;
    pthread_mutex_unlock(&client->lock);
}

// --- running ---

static int connect_once(struct rig_client *client) {
    mosquitto_property *properties = NULL;
    mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, SESSION_EXPIRY);
    int result =
        mosquitto_connect_bind_v5(client->mosquitto, "127.0.0.1", client->port, 60, NULL, properties);
    mosquitto_property_free_all(&properties);
    return result;
}

// Not the library's own thread, which waits a second before it connects again.
static void *run(void *context) {
    struct rig_client *client = context;
    bool connected = false;
    while (!client->stopping) {
        if (!connected)
            connected = connect_once(client) == MOSQ_ERR_SUCCESS;
        if (connected)
            connected = mosquitto_loop(client->mosquitto, 50, 1) == MOSQ_ERR_SUCCESS;
        if (!connected) {
            client->subscribed = false;
            usleep(RETRY_INTERVAL);
        }
    }
    return NULL;
}

static bool is_subscribed(void *context) {
    return ((struct rig_client *)context)->subscribed;
}

void rig_client_start(struct rig *rig) {
    struct rig_client *client = calloc(1, sizeof *client);
    rig->client = client;
    mosquitto_lib_init();
    client->port = rig->broker_port;
    pthread_mutex_init(&client->lock, NULL);
    client->mosquitto = mosquitto_new("rig", false, client);
    mosquitto_threaded_set(client->mosquitto, true);
    mosquitto_int_option(client->mosquitto, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_username_pw_set(client->mosquitto, RIG_USER, RIG_PASSWORD);
    mosquitto_connect_v5_callback_set(client->mosquitto, on_connect);
    mosquitto_subscribe_v5_callback_set(client->mosquitto, on_subscribe);
    mosquitto_publish_v5_callback_set(client->mosquitto, on_publish);
    mosquitto_message_v5_callback_set(client->mosquitto, on_message);
    pthread_create(&client->thread, NULL, run, client);
    if (rig->broker != 0)
        cr_assert(rig_wait(is_subscribed, client, RIG_DEADLINE), "the rig cannot connect to its broker");
}

void rig_client_free(struct rig_client *client) {
    if (client == NULL)
        return;
    client->stopping = true;
    pthread_join(client->thread, NULL);
    mosquitto_destroy(client->mosquitto);
    for (size_t i = 0; i < client->count; i++) {
        free(client->messages[i]->topic);
        free(client->messages[i]->payload);
        free(client->messages[i]->correlation);
        free(client->messages[i]->timestamp);
        free(client->messages[i]);
    }
    free(client->messages);
    free(client);
    mosquitto_lib_cleanup();
}

void rig_client_show(struct rig_client *client) {
    if (client == NULL)
        return;
    pthread_mutex_lock(&client->lock);
    for (size_t i = 0; i < client->count && i < 100; i++)
        fprintf(stderr, "    mqtt%s %s %s\n", client->messages[i]->taken ? " (met)" : "",
                client->messages[i]->topic, client->messages[i]->payload);
    pthread_mutex_unlock(&client->lock);
}

// --- looking for messages ---

struct search {
    struct rig_client *client;
    char filter[512];
    json_t *subset;
    size_t next; // message to look at; those before it do not match
    struct rig_message *found;
};

// Filters lack the prefix of the topics, unless they begin with /.
static void whole_topic(const struct rig *rig, const char *topic, char *whole, size_t capacity) {
    if (*topic == '/')
        snprintf(whole, capacity, "%s", topic + 1);
    else
        snprintf(whole, capacity, "%s/%s", rig->topic_prefix, topic);
}

static bool on_topic(const char *filter, const struct rig_message *message) {
    bool result = false;
    return mosquitto_topic_matches_sub(filter, message->topic, &result) == MOSQ_ERR_SUCCESS && result;
}

bool rig_json_contains(const json_t *whole, const json_t *part) {
    const char *key;
    json_t *value;
    if (!json_is_object(part))
        return json_equal(whole, part) || (json_is_number(whole) && json_is_number(part) &&
                                           json_number_value(whole) == json_number_value(part));
    json_object_foreach((json_t *)part, key, value) {
        const json_t *other = json_object_get(whole, key);
        if (other == NULL || !rig_json_contains(other, value))
            return false;
    }
    return json_is_object(whole);
}

json_t *rig_json(const char *text) {
    char *copy = strdup(text);
    json_error_t error;
    for (char *c = copy; *c != '\0'; c++)
        if (*c == '\'')
            *c = '"';
    json_t *json = json_loads(copy, JSON_DECODE_ANY, &error);
    cr_assert(json != NULL, "the test's own JSON is broken: %s: %s", error.text, copy);
    free(copy);
    return json;
}

json_t *json_of(const struct rig_message *message) {
    json_t *json = json_loadb(message->payload, message->length, JSON_DECODE_ANY, NULL);
    cr_assert(json != NULL, "%s is no JSON: %s", message->topic, message->payload);
    return json;
}

static bool payload_contains(const struct rig_message *message, const json_t *subset) {
    if (subset == NULL)
        return true;
    json_t *json = json_loadb(message->payload, message->length, JSON_DECODE_ANY, NULL);
    bool contains = json != NULL && rig_json_contains(json, subset);
    json_decref(json);
    return contains;
}

static bool meets(const struct search *search, const struct rig_message *message) {
    return !message->taken && on_topic(search->filter, message) && payload_contains(message, search->subset);
}

static bool find(void *context) {
    struct search *search = context;
    pthread_mutex_lock(&search->client->lock);
    for (; search->next < search->client->count && search->found == NULL; search->next++)
        if (meets(search, search->client->messages[search->next]))
            search->found = search->client->messages[search->next];
    if (search->found != NULL)
        search->found->taken = true;
    pthread_mutex_unlock(&search->client->lock);
    return search->found != NULL;
}

const struct rig_message *rig_expect_message(struct rig *rig, const char *filter, const char *subset,
                                             int deadline) {
    struct search search = {.client = rig->client};
    whole_topic(rig, filter, search.filter, sizeof search.filter);
    search.subset = subset != NULL ? rig_json(subset) : NULL;
    bool came = rig_wait(find, &search, deadline);
    json_decref(search.subset);
    cr_assert(came, "no message on %s that contains %s", search.filter, subset != NULL ? subset : "anything");
    return search.found;
}

const struct rig_message *rig_expect(struct rig *rig, const char *filter, const char *subset) {
    return rig_expect_message(rig, filter, subset, RIG_DEADLINE);
}

// --- what the broker retains ---

#define SENTINEL "rig/end"

struct sentinel {
    struct rig_client *client;
    size_t first; // message to look at
};

static bool sentinel_came(void *context) {
    const struct sentinel *sentinel = context;
    bool came = false;
    pthread_mutex_lock(&sentinel->client->lock);
    for (size_t i = sentinel->client->count; i > sentinel->first && !came; i--) {
        const struct rig_message *message = sentinel->client->messages[i - 1];
        came = message->retain && strcmp(message->topic, SENTINEL) == 0;
    }
    pthread_mutex_unlock(&sentinel->client->lock);
    return came;
}

// The broker answers one subscription after the other, so all that is retained has come when the sentinel
// has. Returns the index of the first message that may be of it.
static size_t ask_retained(struct rig *rig, const char *whole) {
    struct rig_client *client = rig->client;
    struct sentinel sentinel = {.client = client};
    rig_publish_retained(rig, "/" SENTINEL, "end");
    pthread_mutex_lock(&client->lock);
    sentinel.first = client->count;
    pthread_mutex_unlock(&client->lock);
    mosquitto_subscribe_v5(client->mosquitto, NULL, whole, 0, 0, NULL);
    mosquitto_subscribe_v5(client->mosquitto, NULL, SENTINEL, 0, 0, NULL);
    cr_assert(rig_wait(sentinel_came, &sentinel, RIG_DEADLINE), "the broker does not say what it retains");
    mosquitto_unsubscribe(client->mosquitto, NULL, whole);
    mosquitto_unsubscribe(client->mosquitto, NULL, SENTINEL);
    return sentinel.first;
}

json_t *rig_retained(struct rig *rig, const char *filter) {
    char whole[512];
    json_t *retained = json_object();
    whole_topic(rig, filter, whole, sizeof whole);
    size_t first = ask_retained(rig, whole);
    pthread_mutex_lock(&rig->client->lock);
    for (size_t i = first; i < rig->client->count; i++) {
        const struct rig_message *message = rig->client->messages[i];
        if (message->retain && message->length > 0 && on_topic(whole, message))
            json_object_set_new(retained, message->topic, json_string(message->payload));
    }
    pthread_mutex_unlock(&rig->client->lock);
    return retained;
}

size_t rig_count_retained(struct rig *rig, const char *filter) {
    json_t *retained = rig_retained(rig, filter);
    size_t count = json_object_size(retained);
    json_decref(retained);
    return count;
}

struct standing {
    struct rig *rig;
    const char *topic;
    const char *text; // NULL: nothing
    json_t *subset;   // or NULL
    char *came;
};

static void ask_standing(struct standing *standing) {
    json_t *retained = rig_retained(standing->rig, standing->topic);
    free(standing->came);
    standing->came = NULL;
    void *first = json_object_iter(retained);
    if (first != NULL)
        standing->came = strdup(json_string_value(json_object_iter_value(first)));
    json_decref(retained);
}

static bool stands_as_text(void *context) {
    struct standing *standing = context;
    ask_standing(standing);
    if (standing->text == NULL || standing->came == NULL)
        return standing->text == standing->came;
    return strcmp(standing->text, standing->came) == 0;
}

void rig_expect_standing(struct rig *rig, const char *topic, const char *text) {
    struct standing standing = {.rig = rig, .topic = topic, .text = text};
    bool stands = rig_wait(stands_as_text, &standing, RIG_DEADLINE);
    cr_assert(stands, "the broker retains on %s: %s, expected: %s", topic,
              standing.came != NULL ? standing.came : "nothing", text != NULL ? text : "nothing");
    free(standing.came);
}

static bool stands_as_json(void *context) {
    struct standing *standing = context;
    ask_standing(standing);
    if (standing->came == NULL)
        return false;
    json_t *json = json_loads(standing->came, JSON_DECODE_ANY, NULL);
    bool contains = json != NULL && rig_json_contains(json, standing->subset);
    json_decref(json);
    return contains;
}

json_t *rig_expect_standing_json(struct rig *rig, const char *topic, const char *subset) {
    struct standing standing = {.rig = rig, .topic = topic, .subset = rig_json(subset)};
    bool stands = rig_wait(stands_as_json, &standing, RIG_DEADLINE);
    json_decref(standing.subset);
    cr_assert(stands, "the broker retains on %s: %s, expected that it contains: %s", topic,
              standing.came != NULL ? standing.came : "nothing", subset);
    json_t *json = json_loads(standing.came, JSON_DECODE_ANY, NULL);
    free(standing.came);
    return json;
}

struct retained {
    struct rig *rig;
    const char *filter;
};

static bool none_retained(void *context) {
    const struct retained *retained = context;
    return rig_count_retained(retained->rig, retained->filter) == 0;
}

void rig_expect_none_retained(struct rig *rig, const char *filter) {
    struct retained retained = {.rig = rig, .filter = filter};
    cr_assert(rig_wait(none_retained, &retained, RIG_DEADLINE), "the broker still retains %s", filter);
}

// --- counting ---

const struct rig_message *rig_next(struct rig *rig, const char *filter, size_t *next) {
    const struct rig_message *found = NULL;
    char whole[512];
    whole_topic(rig, filter, whole, sizeof whole);
    pthread_mutex_lock(&rig->client->lock);
    for (; *next < rig->client->count && found == NULL; ++*next)
        if (on_topic(whole, rig->client->messages[*next]))
            found = rig->client->messages[*next];
    pthread_mutex_unlock(&rig->client->lock);
    return found;
}

const struct rig_message *rig_message_at(struct rig *rig, const char *filter, size_t nth) {
    const struct rig_message *message;
    size_t next = 0;
    do
        message = rig_next(rig, filter, &next);
    while (message != NULL && nth-- > 0);
    return message;
}

size_t rig_count(struct rig *rig, const char *filter) {
    size_t count = 0, next = 0;
    while (rig_next(rig, filter, &next) != NULL)
        count++;
    return count;
}

struct counting {
    struct rig *rig;
    const char *filter;
    size_t least, came, next;
};

static bool has_count(void *context) {
    struct counting *counting = context;
    while (rig_next(counting->rig, counting->filter, &counting->next) != NULL)
        counting->came++;
    return counting->came >= counting->least;
}

void rig_expect_count(struct rig *rig, const char *filter, size_t least) {
    struct counting counting = {.rig = rig, .filter = filter, .least = least};
    cr_assert(rig_wait(has_count, &counting, COUNT_TIME), "%zu messages on %s, expected %zu", counting.came,
              filter, least);
}

// --- publishing ---

struct publishing {
    struct rig_client *client;
    const char *topic;
    const void *bytes;
    size_t length;
    bool retain;
    const mosquitto_property *properties;
    int before, result;
};

static bool is_acknowledged(void *context) {
    const struct publishing *publishing = context;
    return publishing->client->acknowledged > publishing->before;
}

// After the broker was away the client may not be back yet.
static bool is_published(void *context) {
    struct publishing *it = context;
    it->result = mosquitto_publish_v5(it->client->mosquitto, NULL, it->topic, (int)it->length, it->bytes, 1,
                                      it->retain, it->properties);
    return it->result != MOSQ_ERR_NO_CONN;
}

static void publish(struct rig *rig, const char *topic, const void *bytes, size_t length, bool retain,
                    bool wait, const mosquitto_property *properties) {
    char whole[512];
    struct publishing it = {.client = rig->client,
                            .topic = whole,
                            .bytes = bytes,
                            .length = length,
                            .retain = retain,
                            .properties = properties,
                            .before = rig->client->acknowledged};
    whole_topic(rig, topic, whole, sizeof whole);
    rig_wait(is_published, &it, RIG_DEADLINE);
    cr_assert(it.result == MOSQ_ERR_SUCCESS, "publishing to %s: %s", whole, mosquitto_strerror(it.result));
    if (wait)
        cr_assert(rig_wait(is_acknowledged, &it, RIG_DEADLINE), "the broker does not take %s", whole);
}

void rig_publish_bytes(struct rig *rig, const char *topic, const void *bytes, size_t length) {
    publish(rig, topic, bytes, length, false, true, NULL);
}

void rig_publish(struct rig *rig, const char *topic, const char *text) {
    publish(rig, topic, text, strlen(text), false, true, NULL);
}

void rig_publish_soon(struct rig *rig, const char *topic, const char *text) {
    publish(rig, topic, text, strlen(text), false, false, NULL);
}

void rig_publish_retained(struct rig *rig, const char *topic, const char *text) {
    publish(rig, topic, text, strlen(text), true, true, NULL);
}

void rig_request(struct rig *rig, const char *topic, const char *text, const char *response_topic,
                 const char *correlation) {
    mosquitto_property *properties = NULL;
    mosquitto_property_add_string(&properties, MQTT_PROP_RESPONSE_TOPIC, response_topic);
    if (correlation != NULL)
        mosquitto_property_add_binary(&properties, MQTT_PROP_CORRELATION_DATA, correlation,
                                      (uint16_t)strlen(correlation));
    publish(rig, topic, text, strlen(text), false, true, properties);
    mosquitto_property_free_all(&properties);
}

FILE *rig_mosquitto_rr(struct rig *rig, const char *topic, const char *command) {
    char call[512], whole[128];
    whole_topic(rig, topic, whole, sizeof whole);
    snprintf(call, sizeof call,
             "timeout 40 mosquitto_rr -V 5 -h 127.0.0.1 -p %d -t %s -e answers/rr -m '%s' -W 30",
             rig->broker_port, whole, command);
    FILE *process = popen(call, "r");
    cr_assert(process != NULL, "mosquitto_rr does not start");
    return process;
}

const char *rig_mosquitto_rr_answer(FILE *process) {
    static char answer[1024];
    answer[fread(answer, 1, sizeof answer - 1, process)] = '\0';
    cr_assert(pclose(process) == 0, "mosquitto_rr fails: %s", answer);
    return answer;
}
