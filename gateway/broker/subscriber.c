// The subscriptions of a connection; see subscriber.h.
#include "gateway/broker/subscriber.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/base/memory.h"
#include "gateway/broker/protocol_version.h"

struct request {
    int mid; // while it is under way; 0: it is not
    bool answered, granted, again;
    bool said; // that it was refused, also on an earlier connection
};

struct passing {
    char *filter;
    struct passing *prev, *next;
};

struct subscriber {
    const struct mqtt_subscription *subscriptions;
    struct request *requests; // one for each
    size_t count;
    struct passing *passing;
    struct passing *left;     // of the connection before: the session may still have them
    struct mosquitto *client; // NULL: no connection
    int version;
    struct asking_again again;
    struct subscriber_handlers handlers;
};

static void request(struct subscriber *subscriber, size_t i) {
    const struct mqtt_subscription *wanted = &subscriber->subscriptions[i];
    int options = subscriber->version == MQTT_5 ? wanted->options : 0;
    subscriber->requests[i].again = false;
    int result = mosquitto_subscribe_v5(subscriber->client, &subscriber->requests[i].mid, wanted->filter,
                                        wanted->qos, options, NULL);
    subscriber->handlers.result(subscriber->handlers.context, result);
}

static void ask_again(void *context) {
    struct subscriber *subscriber = context;
    for (size_t i = 0; i < subscriber->count && subscriber->client != NULL; i++)
        if (subscriber->requests[i].again)
            request(subscriber, i);
}

struct subscriber *subscriber_new(uv_loop_t *loop, const struct mqtt_subscription *subscriptions,
                                  size_t count, const struct subscriber_handlers *handlers) {
    struct subscriber *subscriber = must_have(calloc(1, sizeof *subscriber));
    *subscriber = (struct subscriber){.subscriptions = subscriptions,
                                      .requests = must_have(calloc(count + 1, sizeof *subscriber->requests)),
                                      .count = count,
                                      .handlers = *handlers};
    asking_again_init(&subscriber->again, loop, ask_again, subscriber);
    return subscriber;
}

static void clear(struct subscriber *subscriber) {
    for (size_t i = 0; i < subscriber->count; i++)
        subscriber->requests[i] = (struct request){.said = subscriber->requests[i].said};
}

static bool is_lasting(const struct subscriber *subscriber, const char *filter) {
    for (size_t i = 0; i < subscriber->count; i++)
        if (strcmp(subscriber->subscriptions[i].filter, filter) == 0)
            return true;
    return false;
}

static void forget(struct passing **list, struct passing *passing) {
    DL_DELETE(*list, passing);
    free(passing->filter);
    free(passing);
}

static void unsubscribe(struct subscriber *subscriber, const char *filter) {
    subscriber->handlers.result(subscriber->handlers.context,
                                mosquitto_unsubscribe(subscriber->client, NULL, filter));
}

static void clear_session(struct subscriber *subscriber, bool resumed) {
    while (subscriber->left != NULL) {
        if (resumed && !is_lasting(subscriber, subscriber->left->filter))
            unsubscribe(subscriber, subscriber->left->filter);
        forget(&subscriber->left, subscriber->left);
    }
}

void subscriber_begin(struct subscriber *subscriber, struct mosquitto *client, int version,
                      const struct subscriber_session *session) {
    clear(subscriber);
    subscriber->client = client;
    subscriber->version = version;
    asking_again_begin(&subscriber->again);
    clear_session(subscriber, session->resumed);
    for (size_t i = 0; i < subscriber->count; i++)
        if (session->wildcards || strpbrk(subscriber->subscriptions[i].filter, "+#") == NULL)
            request(subscriber, i);
        else
            subscriber->requests[i].answered = true;
}

void subscriber_end(struct subscriber *subscriber) {
    DL_CONCAT(subscriber->left, subscriber->passing);
    subscriber->passing = NULL;
    clear(subscriber);
    subscriber->client = NULL;
    asking_again_end(&subscriber->again);
}

static void take_answer(struct subscriber *subscriber, size_t i, int reason) {
    struct request *answered = &subscriber->requests[i];
    answered->mid = 0;
    answered->answered = true;
    answered->granted = reason < 0x80;
    bool said = answered->said;
    answered->said = !answered->granted;
    enum again again = answered->granted ? AGAIN_NEVER : asking_again_note(&subscriber->again, reason);
    answered->again = again != AGAIN_NEVER;
    subscriber->handlers.answered(subscriber->handlers.context, &subscriber->subscriptions[i], reason, again,
                                  said);
}

void subscriber_answer(struct subscriber *subscriber, int mid, int count, const int *granted) {
    for (size_t i = 0; i < subscriber->count && count > 0; i++)
        if (subscriber->requests[i].mid == mid) {
            take_answer(subscriber, i, granted[0]);
            return;
        }
}

bool subscriber_is_answered(const struct subscriber *subscriber) {
    for (size_t i = 0; i < subscriber->count; i++)
        if (!subscriber->requests[i].answered)
            return false;
    return true;
}

bool subscriber_has(const struct subscriber *subscriber, const char *filter) {
    for (size_t i = 0; i < subscriber->count; i++)
        if (strcmp(subscriber->subscriptions[i].filter, filter) == 0)
            return subscriber->requests[i].granted;
    return false;
}

// --- for a while ---

static struct passing *find_passing(const struct subscriber *subscriber, const char *filter) {
    struct passing *passing;
    DL_FOREACH(subscriber->passing, passing) {
        if (strcmp(passing->filter, filter) == 0)
            return passing;
    }
    return NULL;
}

void subscriber_add(struct subscriber *subscriber, const char *filter) {
    if (find_passing(subscriber, filter) == NULL) {
        struct passing *passing = must_have(calloc(1, sizeof *passing));
        passing->filter = must_have(strdup(filter));
        DL_APPEND(subscriber->passing, passing);
    }
    subscriber->handlers.result(subscriber->handlers.context,
                                mosquitto_subscribe(subscriber->client, NULL, filter, 0));
}

static bool ask_anew(struct subscriber *subscriber, const char *filter) {
    for (size_t i = 0; i < subscriber->count; i++)
        if (strcmp(subscriber->subscriptions[i].filter, filter) == 0) {
            request(subscriber, i);
            return true;
        }
    return false;
}

void subscriber_remove(struct subscriber *subscriber, const char *filter) {
    struct passing *passing = find_passing(subscriber, filter);
    if (passing != NULL)
        forget(&subscriber->passing, passing);
    if (!ask_anew(subscriber, filter))
        unsubscribe(subscriber, filter);
}

static bool is_wanted_for_a_while(const struct subscriber *subscriber, const char *topic) {
    const struct passing *passing;
    bool matches;
    DL_FOREACH(subscriber->passing, passing) {
        if (mosquitto_topic_matches_sub(passing->filter, topic, &matches) == MOSQ_ERR_SUCCESS && matches)
            return true;
    }
    return false;
}

bool subscriber_ignores(const struct subscriber *subscriber, const char *topic, bool retain) {
    bool matches;
    if (!retain || subscriber->version == MQTT_5 || is_wanted_for_a_while(subscriber, topic))
        return false;
    for (size_t i = 0; i < subscriber->count; i++) {
        const struct mqtt_subscription *wanted = &subscriber->subscriptions[i];
        if ((wanted->options & MQTT_SUB_OPT_SEND_RETAIN_NEVER) == 0 &&
            mosquitto_topic_matches_sub(wanted->filter, topic, &matches) == MOSQ_ERR_SUCCESS && matches)
            return false;
    }
    return true;
}

void subscriber_stop(struct subscriber *subscriber) {
    subscriber_end(subscriber);
    asking_again_close(&subscriber->again);
}

void subscriber_free(struct subscriber *subscriber) {
    clear_session(subscriber, false);
    free(subscriber->requests);
    free(subscriber);
}
