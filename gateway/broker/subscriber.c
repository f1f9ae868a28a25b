// The subscriptions of a connection; see subscriber.h.
#include "gateway/broker/subscriber.h"

#include <mqtt_protocol.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/broker/protocol_version.h"

#define AGAIN_MIN 1000  // milliseconds until the first one is asked for again
#define AGAIN_MAX 60000 // and at most

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
    unsigned again; // milliseconds
    uv_timer_t timer;
    struct subscriber_handlers handlers;
};

struct subscriber *subscriber_new(uv_loop_t *loop, const struct mqtt_subscription *subscriptions,
                                  size_t count, const struct subscriber_handlers *handlers) {
    struct subscriber *subscriber = must_have(calloc(1, sizeof *subscriber));
    *subscriber = (struct subscriber){.subscriptions = subscriptions,
                                      .requests = must_have(calloc(count + 1, sizeof *subscriber->requests)),
                                      .count = count,
                                      .handlers = *handlers};
    uv_timer_init(loop, &subscriber->timer);
    subscriber->timer.data = subscriber;
    return subscriber;
}

static void request(struct subscriber *subscriber, size_t i) {
    const struct mqtt_subscription *wanted = &subscriber->subscriptions[i];
    int options = subscriber->version == MQTT_5 ? wanted->options : 0;
    subscriber->requests[i].again = false;
    int result = mosquitto_subscribe_v5(subscriber->client, &subscriber->requests[i].mid, wanted->filter,
                                        wanted->qos, options, NULL);
    subscriber->handlers.result(subscriber->handlers.context, result);
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
    subscriber->again = AGAIN_MIN;
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
    uv_timer_stop(&subscriber->timer);
}

static void on_again(uv_timer_t *timer) {
    struct subscriber *subscriber = timer->data;
    for (size_t i = 0; i < subscriber->count && subscriber->client != NULL; i++)
        if (subscriber->requests[i].again)
            request(subscriber, i);
}

// The one that comes first counts: all are asked for then.
static void ask_within(struct subscriber *subscriber, unsigned milliseconds) {
    uv_timer_t *timer = &subscriber->timer;
    if (!uv_is_active((uv_handle_t *)timer) || uv_timer_get_due_in(timer) > milliseconds)
        uv_timer_start(timer, on_again, milliseconds, 0);
}

static bool is_to_be_asked(const struct subscriber *subscriber) {
    for (size_t i = 0; i < subscriber->count; i++)
        if (subscriber->requests[i].again)
            return true;
    return false;
}

static void ask_soon(struct subscriber *subscriber) {
    ask_within(subscriber, subscriber->again);
    if (!is_to_be_asked(subscriber)) // several that are refused at once count as one
        subscriber->again = subscriber->again * 2 < AGAIN_MAX ? subscriber->again * 2 : AGAIN_MAX;
}

static enum subscriber_again again_after(int reason) {
    switch (reason) {
    case MQTT_RC_UNSPECIFIED:
    case MQTT_RC_PACKET_ID_IN_USE:
    case MQTT_RC_QUOTA_EXCEEDED:
        return SUBSCRIBER_SOON;
    case MQTT_RC_NOT_AUTHORIZED:
        return SUBSCRIBER_SLOWLY;
    default:
        return SUBSCRIBER_NEVER;
    }
}

static void take_answer(struct subscriber *subscriber, size_t i, int reason) {
    struct request *answered = &subscriber->requests[i];
    answered->mid = 0;
    answered->answered = true;
    answered->granted = reason < 0x80;
    bool said = answered->said;
    answered->said = !answered->granted;
    enum subscriber_again again = again_after(reason);
    if (again == SUBSCRIBER_SOON)
        ask_soon(subscriber);
    else if (again == SUBSCRIBER_SLOWLY)
        ask_within(subscriber, SUBSCRIBER_SLOW);
    answered->again = again != SUBSCRIBER_NEVER;
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
    uv_close((uv_handle_t *)&subscriber->timer, NULL);
}

void subscriber_free(struct subscriber *subscriber) {
    clear_session(subscriber, false);
    free(subscriber->requests);
    free(subscriber);
}
