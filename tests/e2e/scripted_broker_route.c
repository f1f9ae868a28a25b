// The scripted broker: messages, sessions, what is retained; see scripted_broker_parts.h.
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "tests/e2e/scripted_broker_parts.h"

// --- messages ---

struct message *message_new(const char *topic, struct bytes payload, uint8_t qos, bool retain,
                            struct bytes properties) {
    struct message *message = calloc(1, sizeof *message);
    message->references = 1;
    message->topic = strdup(topic);
    message->payload = (uint8_t *)bytes_text(payload);
    message->length = payload.length;
    message->qos = qos;
    message->retain = retain;
    put_passed_properties(&message->properties, properties, true);
    return message;
}

struct message *message_keep(struct message *message) {
    message->references++;
    return message;
}

void message_drop(struct message *message) {
    if (message == NULL || --message->references > 0)
        return;
    buffer_free(&message->properties);
    free(message->topic);
    free(message->payload);
    free(message);
}

static struct message *stripped(const struct message *message) {
    struct bytes properties = {message->properties.bytes, message->properties.length};
    struct bytes payload = {message->payload, message->length};
    struct message *copy =
        message_new(message->topic, payload, message->qos, message->retain, (struct bytes){0});
    put_passed_properties(&copy->properties, properties, false);
    return copy;
}

// --- what is retained ---

static struct message **retained_at(struct state *state, const char *topic) {
    for (size_t i = 0; i < state->retained_count; i++)
        if (strcmp(state->retained[i]->topic, topic) == 0)
            return &state->retained[i];
    return NULL;
}

struct message *find_retained(struct scripted_broker *broker, const char *topic) {
    struct message **at = retained_at(&broker->state, topic);
    return at != NULL ? *at : NULL;
}

static void remove_retained(struct state *state, struct message **at) {
    message_drop(*at);
    state->retained_count--;
    memmove(at, at + 1, (size_t)(state->retained + state->retained_count - at) * sizeof *at);
}

void forget_retained(struct state *state, const char *filter) {
    for (size_t i = state->retained_count; i-- > 0;)
        if (filter == NULL || topic_matches(filter, state->retained[i]->topic))
            remove_retained(state, &state->retained[i]);
}

// Takes over the caller's share of it.
static void add_retained(struct state *state, struct message *message) {
    if (state->retained_count == state->retained_capacity) {
        state->retained_capacity = state->retained_capacity * 2 + 64;
        state->retained = realloc(state->retained, state->retained_capacity * sizeof(void *));
    }
    state->retained[state->retained_count++] = message;
}

static void retain(struct state *state, struct message *message, bool strip) {
    struct message **at = retained_at(state, message->topic);
    if (message->length == 0) {
        if (at != NULL)
            remove_retained(state, at);
        return;
    }
    struct message *kept = strip ? stripped(message) : message_keep(message);
    if (at == NULL) {
        add_retained(state, kept);
        return;
    }
    message_drop(*at);
    *at = kept;
}

// --- deliveries ---

static void delivery_free(struct session *session, struct delivery *delivery) {
    DL_DELETE(session->queue, delivery);
    message_drop(delivery->message);
    buffer_free(&delivery->ids);
    free(delivery);
}

static void put_publish(struct buffer *packet, const struct delivery *delivery, int version) {
    const struct message *message = delivery->message;
    struct buffer body = {0}, properties = {0};
    put_text(&body, message->topic);
    if (delivery->qos > 0)
        put_u16(&body, delivery->packet_id);
    put_raw(&properties, (struct bytes){message->properties.bytes, message->properties.length});
    put_raw(&properties, (struct bytes){delivery->ids.bytes, delivery->ids.length});
    if (version == 5)
        put_properties(&body, &properties);
    put_raw(&body, (struct bytes){message->payload, message->length});
    put_packet(packet, (uint8_t)(PUBLISH << 4 | delivery->dup << 3 | delivery->qos << 1 | delivery->retain),
               &body);
    buffer_free(&properties);
}

// False: the client does not take packets of that size.
static bool send_delivery(struct connection *connection, const struct delivery *delivery) {
    struct buffer packet = {0};
    put_publish(&packet, delivery, connection->version);
    bool fits = packet.length <= connection->maximum_packet_size;
    if (fits)
        put_raw(&connection->out, (struct bytes){packet.bytes, packet.length});
    buffer_free(&packet);
    return fits;
}

static bool id_is_used(const struct session *session, uint16_t id) {
    const struct delivery *delivery;
    DL_FOREACH(session->queue, delivery) if (delivery->packet_id == id) return true;
    return false;
}

static uint16_t next_id(struct session *session) {
    do
        session->last_id = (uint16_t)(session->last_id + 1);
    while (session->last_id == 0 || id_is_used(session, session->last_id));
    return session->last_id;
}

static void send_from_queue(struct scripted_broker *broker, struct session *session,
                            struct delivery *delivery) {
    if (delivery->packet_id == 0)
        delivery->packet_id = next_id(session);
    delivery->sent = true;
    session->under_way++;
    if (send_delivery(session->connection, delivery))
        return;
    trace(broker, session->connection, "too large for it: %s", delivery->message->topic);
    session->under_way--;
    delivery_free(session, delivery);
}

static void pump(struct scripted_broker *broker, struct session *session) {
    struct delivery *delivery, *after;
    if (session->connection == NULL || session->connection->waits)
        return;
    DL_FOREACH_SAFE(session->queue, delivery, after) {
        if (session->under_way >= session->connection->receive_maximum)
            break;
        if (!delivery->sent)
            send_from_queue(broker, session, delivery);
    }
}

void session_resume(struct scripted_broker *broker, struct session *session) {
    struct delivery *delivery;
    session->under_way = 0;
    DL_FOREACH(session->queue, delivery) {
        delivery->dup |= delivery->sent;
        if (delivery->acknowledged)
            delivery->message->again = false; // once
        delivery->sent = delivery->acknowledged = false;
    }
    pump(broker, session);
}

static struct delivery *find_delivery(struct session *session, uint16_t packet_id) {
    struct delivery *delivery;
    DL_FOREACH(session->queue, delivery)
    if (delivery->packet_id == packet_id && delivery->sent && !delivery->acknowledged)
        return delivery;
    return NULL;
}

void session_acknowledged(struct scripted_broker *broker, struct session *session, uint16_t packet_id) {
    struct delivery *delivery = find_delivery(session, packet_id);
    if (delivery == NULL) {
        trace(broker, session->connection, "PUBACK of what is not under way: %u", packet_id);
        return;
    }
    session->under_way--;
    delivery->acknowledged = true;
    if (!delivery->message->again)
        delivery_free(session, delivery);
    pump(broker, session);
}

static void enqueue(struct scripted_broker *broker, struct session *session, struct delivery from) {
    if (from.qos == 0) {
        if (session->connection != NULL && !session->connection->waits)
            send_delivery(session->connection, &from);
        buffer_free(&from.ids);
        return;
    }
    struct delivery *delivery = malloc(sizeof *delivery);
    *delivery = from;
    message_keep(delivery->message);
    DL_APPEND(session->queue, delivery);
    pump(broker, session);
}

static void put_subscription_id(struct buffer *ids, const struct subscription *subscription) {
    if (subscription->id == 0)
        return;
    put_u8(ids, PROPERTY_SUBSCRIPTION_ID);
    put_varint(ids, subscription->id);
}

static uint8_t lower_qos(uint8_t one, uint8_t other) {
    return one < other ? one : other;
}

// Once, however many subscriptions match, at the highest QoS that one of them has.
static void deliver(struct scripted_broker *broker, struct session *session, struct message *message,
                    bool own) {
    struct delivery delivery = {.message = message};
    const struct subscription *it;
    bool wanted = false;
    LL_FOREACH(session->subscriptions, it) {
        if (it->nothing || (own && it->no_local) || !topic_matches(it->filter, message->topic))
            continue;
        wanted = true;
        uint8_t qos = lower_qos(it->qos, message->qos);
        delivery.qos = qos > delivery.qos ? qos : delivery.qos;
        delivery.retain |= it->as_published && message->retain;
        put_subscription_id(&delivery.ids, it);
    }
    if (wanted)
        enqueue(broker, session, delivery);
}

static bool is_over(const struct session *session) {
    return session->connection == NULL && session->expiry != UINT32_MAX &&
           scripted_clock() >= session->ended + (int64_t)session->expiry * 1000;
}

void route(struct scripted_broker *broker, struct message *message, const struct session *from, bool strip) {
    struct session *session, *after;
    if (message->retain)
        retain(&broker->state, message, strip);
    LL_FOREACH_SAFE(broker->state.sessions, session, after) {
        if (is_over(session))
            session_forget(broker, session);
        else
            deliver(broker, session, message, session == from);
    }
}

static struct subscription *find_subscription(struct session *session, const char *filter) {
    struct subscription *it;
    LL_FOREACH(session->subscriptions, it) if (strcmp(it->filter, filter) == 0) return it;
    return NULL;
}

static void deliver_one_retained(struct scripted_broker *broker, struct session *session,
                                 const struct subscription *subscription, struct message *message) {
    struct delivery delivery = {.message = message, .retain = true};
    if (!topic_matches(subscription->filter, message->topic))
        return;
    delivery.qos = lower_qos(subscription->qos, message->qos);
    put_subscription_id(&delivery.ids, subscription);
    enqueue(broker, session, delivery);
}

void deliver_retained(struct scripted_broker *broker, struct session *session, const char *filter,
                      bool reversed) {
    const struct subscription *subscription = find_subscription(session, filter);
    const struct state *state = &broker->state;
    if (subscription == NULL || subscription->nothing)
        return;
    for (size_t i = 0; i < state->retained_count; i++) {
        size_t at = reversed ? state->retained_count - 1 - i : i;
        deliver_one_retained(broker, session, subscription, state->retained[at]);
    }
}

// --- subscriptions ---

struct subscription *subscribe(struct session *session, const char *filter, bool *is_new) {
    struct subscription *subscription = find_subscription(session, filter);
    *is_new = subscription == NULL;
    if (subscription != NULL)
        return subscription;
    subscription = calloc(1, sizeof *subscription);
    subscription->filter = strdup(filter);
    LL_APPEND(session->subscriptions, subscription);
    return subscription;
}

static void subscription_free(struct session *session, struct subscription *subscription) {
    LL_DELETE(session->subscriptions, subscription);
    free(subscription->filter);
    free(subscription);
}

bool unsubscribe(struct session *session, const char *filter) {
    struct subscription *subscription = find_subscription(session, filter);
    if (subscription == NULL)
        return false;
    subscription_free(session, subscription);
    return true;
}

// --- sessions ---

struct session *find_session(struct scripted_broker *broker, const char *client) {
    struct session *session;
    LL_FOREACH(broker->state.sessions, session)
    if (strcmp(session->client, client) == 0)
        break;
    if (session == NULL || !is_over(session))
        return session;
    session_forget(broker, session);
    return NULL;
}

static struct session *add_session(struct state *state, const char *client) {
    struct session *session = calloc(1, sizeof *session);
    session->client = strdup(client);
    LL_APPEND(state->sessions, session);
    return session;
}

struct session *session_new(struct scripted_broker *broker, const char *client) {
    return add_session(&broker->state, client);
}

static void session_free(struct state *state, struct session *session) {
    LL_DELETE(state->sessions, session);
    while (session->queue != NULL)
        delivery_free(session, session->queue);
    while (session->subscriptions != NULL)
        subscription_free(session, session->subscriptions);
    free(session->client);
    free(session);
}

void session_forget(struct scripted_broker *broker, struct session *session) {
    session_free(&broker->state, session);
}

// --- copies ---

void copy_retained(struct state *to, const struct state *from) {
    forget_retained(to, NULL);
    for (size_t i = 0; i < from->retained_count; i++)
        add_retained(to, message_keep(from->retained[i]));
}

static void copy_subscriptions(struct session *to, const struct session *from) {
    const struct subscription *it;
    bool is_new;
    LL_FOREACH(from->subscriptions, it) {
        struct subscription *copy = subscribe(to, it->filter, &is_new);
        struct subscription *next = copy->next;
        char *filter = copy->filter;
        *copy = *it;
        copy->next = next;
        copy->filter = filter;
    }
}

static void copy_queue(struct session *to, const struct session *from) {
    const struct delivery *it;
    DL_FOREACH(from->queue, it) {
        struct delivery *copy = malloc(sizeof *copy);
        *copy = *it;
        copy->message = message_keep(it->message);
        copy->ids = (struct buffer){0};
        put_raw(&copy->ids, (struct bytes){it->ids.bytes, it->ids.length});
        DL_APPEND(to->queue, copy);
    }
}

static void copy_session(struct state *to, const struct session *from) {
    struct session *session = add_session(to, from->client);
    session->expiry = from->expiry;
    session->ended = scripted_clock();
    session->last_id = from->last_id;
    copy_subscriptions(session, from);
    copy_queue(session, from);
}

void state_copy(struct state *to, const struct state *from) {
    const struct session *session;
    state_free(to);
    copy_retained(to, from);
    LL_FOREACH(from->sessions, session) if (session->expiry > 0) copy_session(to, session);
}

void sessions_free(struct state *state) {
    while (state->sessions != NULL)
        session_free(state, state->sessions);
}

void state_free(struct state *state) {
    forget_retained(state, NULL);
    free(state->retained);
    state->retained = NULL;
    state->retained_capacity = 0;
    sessions_free(state);
}
