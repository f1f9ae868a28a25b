// The scripted broker: the packets of clients but PUBLISH; see scripted_broker.h.
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "tests/e2e/scripted_broker_parts.h"

#define PACKET_MAX  (64U << 20) // bytes, whatever CONNACK says
#define FILTERS_MAX 256         // of one SUBSCRIBE

// --- DISCONNECT, both ways ---

static void put_property_text(struct buffer *properties, enum property_id id, const char *text) {
    if (text == NULL)
        return;
    put_u8(properties, (uint8_t)id);
    put_text(properties, text);
}

void disconnect(struct scripted_broker *broker, struct connection *connection, uint8_t reason,
                const struct scripted_rule *rule, const char *why) {
    if (connection->leaves)
        return;
    if (reason != 0 && connection->version == 5 && connection->session != NULL) {
        struct buffer body = {0}, properties = {0};
        if (rule != NULL) {
            put_property_text(&properties, PROPERTY_REASON_STRING, rule->text);
            put_property_text(&properties, PROPERTY_SERVER_REFERENCE, rule->server_reference);
        }
        put_u8(&body, reason);
        put_properties(&body, &properties);
        buffer_free(&properties);
        put_packet(&connection->out, DISCONNECT << 4, &body);
        trace(broker, connection, "< DISCONNECT 0x%02X", reason);
    }
    leave(broker, connection, why);
}

static void on_disconnect(struct scripted_broker *broker, struct connection *connection,
                          struct packet_reader *reader) {
    bool says_reason = connection->version == 5 && reader->left > 0;
    uint8_t reason = says_reason ? read_u8(reader) : 0;
    struct bytes properties =
        says_reason && reader->left > 0 ? read_properties(reader, DISCONNECT) : (struct bytes){0};
    if (reader->fault || reader->left > 0) {
        fault(broker, connection, 0x81, "malformed DISCONNECT");
        return;
    }
    connection->session->expiry =
        property_number(properties, PROPERTY_SESSION_EXPIRY, connection->session->expiry);
    connection->past->is.end_reason = reason;
    if (reason == 0) {
        message_drop(connection->will);
        connection->will = NULL;
    }
    leave(broker, connection, "DISCONNECT");
}

// --- CONNACK ---

static void put_limit(struct buffer *properties, enum property_id id, unsigned width, bool said,
                      uint32_t value) {
    if (!said)
        return;
    put_u8(properties, (uint8_t)id);
    if (width == 1)
        put_u8(properties, (uint8_t)value);
    else if (width == 2)
        put_u16(properties, (uint16_t)value);
    else
        put_u32(properties, value);
}

static void put_limits(struct buffer *out, const struct scripted_limits *is) {
    put_limit(out, PROPERTY_MAXIMUM_PACKET_SIZE, 4, is->maximum_packet_size > 0, is->maximum_packet_size);
    put_limit(out, PROPERTY_RECEIVE_MAXIMUM, 2, is->receive_maximum > 0, is->receive_maximum);
    put_limit(out, PROPERTY_SERVER_KEEP_ALIVE, 2, is->server_keep_alive > 0, is->server_keep_alive);
    put_limit(out, PROPERTY_TOPIC_ALIAS_MAXIMUM, 2, is->topic_alias_maximum > 0, is->topic_alias_maximum);
    put_limit(out, PROPERTY_SESSION_EXPIRY, 4, is->session_expiry != 0,
              is->session_expiry > 0 ? (uint32_t)is->session_expiry : 0);
    put_limit(out, PROPERTY_MAXIMUM_QOS, 1, true, is->only_qos_0 ? 0 : 1);
    put_limit(out, PROPERTY_RETAIN_AVAILABLE, 1, is->no_retain, 0);
    put_limit(out, PROPERTY_WILDCARDS_AVAILABLE, 1, is->no_wildcards, 0);
    put_limit(out, PROPERTY_SUBSCRIPTION_IDS_AVAILABLE, 1, is->no_subscription_ids, 0);
    put_limit(out, PROPERTY_SHARED_AVAILABLE, 1, true, 0);
}

// What 3.1.1 says for a reason of version 5.
static uint8_t return_code(uint8_t reason) {
    switch (reason) {
    case 0x84:
        return 1;
    case 0x85:
        return 2;
    case 0x86:
        return 4;
    case 0x87:
        return 5;
    default:
        return reason < 0x80 ? 0 : 3;
    }
}

static void put_connack(struct scripted_broker *broker, struct connection *connection, bool session_present,
                        const struct scripted_rule *rule) {
    struct buffer body = {0}, properties = {0};
    bool refuses = rule->reason >= 0x80;
    bool old = connection->version == 4 || rule->answer == SCRIPTED_OLD;
    put_u8(&body, session_present);
    if (old) {
        put_u8(&body, rule->answer == SCRIPTED_OLD ? 1 : return_code(rule->reason));
    } else {
        put_u8(&body, rule->reason);
        if (!refuses)
            put_limits(&properties, &rule->limits);
        if (!refuses && connection->assigned)
            put_property_text(&properties, PROPERTY_ASSIGNED_ID, connection->past->is.client);
        put_property_text(&properties, PROPERTY_REASON_STRING, rule->text);
        put_property_text(&properties, PROPERTY_SERVER_REFERENCE, rule->server_reference);
        put_properties(&body, &properties);
    }
    trace(broker, connection, "< CONNACK 0x%02X%s", body.bytes[1], session_present ? ", its session" : "");
    connection->past->is.reason = body.bytes[1];
    put_packet(&connection->out, CONNACK << 4, &body);
    buffer_free(&properties);
}

// --- CONNECT ---

static void take_over(struct scripted_broker *broker, struct session *session) {
    if (session != NULL && session->connection != NULL)
        disconnect(broker, session->connection, 0x8E, NULL, "taken over");
}

// The session that goes on; the one before it is over when a clean one is asked for.
static struct session *open_session(struct scripted_broker *broker, const struct scripted_connect *connect,
                                    bool *present) {
    struct session *session = find_session(broker, connect->client);
    take_over(broker, session);
    session = find_session(broker, connect->client); // it may have been over with its connection
    if (session != NULL && connect->clean_start) {
        session_forget(broker, session);
        session = NULL;
    }
    *present = session != NULL;
    return session != NULL ? session : session_new(broker, connect->client);
}

static void forget_delayed_will(struct scripted_broker *broker, const char *client) {
    struct later *later, *after;
    DL_FOREACH_SAFE(broker->later, later, after)
    if (later->text != NULL && later->message != NULL && strcmp(later->text, client) == 0)
        drop_later(broker, later);
}

static void begin(struct scripted_broker *broker, struct connection *connection,
                  const struct scripted_rule *rule) {
    const struct scripted_connect *connect = &connection->past->is;
    bool present;
    connection->limits = rule->limits;
    connection->hold_will = rule->hold_will;
    connection->will_delay = rule->no_will_delay ? 0 : connect->will_delay;
    if (rule->limits.server_keep_alive > 0 && connection->version == 5)
        connection->keep_alive = rule->limits.server_keep_alive;
    connection->session = open_session(broker, connect, &present);
    forget_delayed_will(broker, connect->client);
    connection->session->connection = connection;
    connection->session->expiry = connect->session_expiry;
    if (rule->limits.session_expiry != 0 && connection->version == 5)
        connection->session->expiry =
            rule->limits.session_expiry > 0 ? (uint32_t)rule->limits.session_expiry : 0;
    put_connack(broker, connection, present, rule);
    session_resume(broker, connection->session);
}

static void refuse(struct scripted_broker *broker, struct connection *connection,
                   const struct scripted_rule *rule) {
    message_drop(connection->will);
    connection->will = NULL;
    if (rule->answer != SCRIPTED_CLOSES)
        put_connack(broker, connection, false, rule);
    leave(broker, connection, "refused");
}

static void answer_connect(struct scripted_broker *broker, struct connection *connection,
                           const struct scripted_rule *rule) {
    connection->waits = false;
    if (rule->reason >= 0x80 || rule->answer == SCRIPTED_CLOSES || rule->answer == SCRIPTED_OLD) {
        refuse(broker, connection, rule);
        return;
    }
    begin(broker, connection, rule);
    if (rule->answer == SCRIPTED_CLOSES_AFTER || rule->disconnect != 0)
        disconnect(broker, connection, rule->disconnect, rule, "rule");
}

static void answer_connect_late(struct scripted_broker *broker, struct connection *connection,
                                struct later *later) {
    if (connection != NULL)
        answer_connect(broker, connection, &later->rule->is);
}

static void decide_connect(struct scripted_broker *broker, struct connection *connection) {
    static const struct scripted_rule none;
    struct packet_facts facts = {
        .event = SCRIPTED_CONNECT, .client = connection->past->is.client, .version = connection->version};
    const struct rule *rule = find_rule(broker, &facts);
    connection->waits = rule != NULL && (rule->is.answer == SCRIPTED_SILENT || rule->is.delay > 0);
    if (!connection->waits)
        answer_connect(broker, connection, rule != NULL ? &rule->is : &none);
    else if (rule->is.answer != SCRIPTED_SILENT)
        do_later(broker, connection, rule->is.delay, answer_connect_late)->rule = rule;
}

struct connect_packet {
    uint8_t flags;
    uint16_t keep_alive;
    struct bytes properties, client, will_properties, will_topic, will_payload, username, password;
};

static bool flags_are_valid(uint8_t flags, int version) {
    unsigned will_qos = flags >> 3 & 3;
    if ((flags & 1) != 0 || will_qos == 3)
        return false;
    if ((flags & 4) == 0 && (flags & 0x38) != 0)
        return false;
    return version == 5 || (flags & 0xC0) != 0x40; // a password alone
}

static void read_will(struct packet_reader *reader, int version, struct connect_packet *packet) {
    if (version == 5)
        packet->will_properties = read_properties(reader, WILL);
    packet->will_topic = read_text(reader);
    packet->will_payload = read_binary(reader);
    if (!topic_is_valid(packet->will_topic))
        reader->fault = true;
}

static bool read_connect(struct packet_reader *reader, int version, struct connect_packet *packet) {
    packet->flags = read_u8(reader);
    packet->keep_alive = read_u16(reader);
    if (version == 5)
        packet->properties = read_properties(reader, CONNECT);
    packet->client = read_text(reader);
    if ((packet->flags & 4) != 0)
        read_will(reader, version, packet);
    if ((packet->flags & 0x80) != 0)
        packet->username = read_text(reader);
    if ((packet->flags & 0x40) != 0)
        packet->password = read_binary(reader);
    return !reader->fault && reader->left == 0 && flags_are_valid(packet->flags, version) &&
           (version == 5 || packet->client.length > 0 || (packet->flags & 2) != 0);
}

static char *client_id(struct connection *connection, struct bytes client) {
    char chosen[32];
    if (client.length > 0)
        return bytes_text(client);
    connection->assigned = true;
    snprintf(chosen, sizeof chosen, "~%u", connection->number);
    return strdup(chosen);
}

static void keep_will(struct connection *connection, const struct connect_packet *packet) {
    struct scripted_connect *connect = &connection->past->is;
    connect->will_topic = bytes_text(packet->will_topic);
    connect->will_payload = bytes_text(packet->will_payload);
    connect->will_user_properties = user_properties_text(packet->will_properties);
    connect->will_qos = packet->flags >> 3 & 3;
    connect->will_retain = (packet->flags & 0x20) != 0;
    connect->will_delay = property_number(packet->will_properties, PROPERTY_WILL_DELAY, 0);
    connection->past->will =
        message_new(connect->will_topic, packet->will_payload, (uint8_t)connect->will_qos,
                    connect->will_retain, packet->will_properties);
    connection->will = message_keep(connection->past->will);
}

static void keep_connect(struct scripted_broker *broker, struct connection *connection,
                         const struct connect_packet *packet) {
    bool clean = (packet->flags & 2) != 0;
    uint32_t old_expiry = clean ? 0 : UINT32_MAX;
    connection->past = calloc(1, sizeof *connection->past);
    connection->past->is = (struct scripted_connect){
        .client = client_id(connection, packet->client),
        .version = connection->version,
        .clean_start = clean,
        .keep_alive = packet->keep_alive,
        .session_expiry = connection->version == 4
                              ? old_expiry
                              : property_number(packet->properties, PROPERTY_SESSION_EXPIRY, 0),
        .receive_maximum = property_number(packet->properties, PROPERTY_RECEIVE_MAXIMUM, 65535),
        .maximum_packet_size = property_number(packet->properties, PROPERTY_MAXIMUM_PACKET_SIZE, UINT32_MAX),
        .username = bytes_text(packet->username),
        .password = bytes_text(packet->password),
        .time = scripted_clock(),
        .reason = -1,
        .end_reason = -1};
    if ((packet->flags & 4) != 0)
        keep_will(connection, packet);
    past_add(&broker->connects, connection->past);
}

static void take_connect(struct scripted_broker *broker, struct connection *connection,
                         const struct connect_packet *packet) {
    keep_connect(broker, connection, packet);
    const struct scripted_connect *connect = &connection->past->is;
    connection->receive_maximum = connect->receive_maximum;
    connection->maximum_packet_size = connect->maximum_packet_size;
    connection->keep_alive = connect->keep_alive;
    trace(broker, connection, "> CONNECT version %d%s, expiry %u s", connect->version,
          connect->clean_start ? ", clean" : "", connect->session_expiry);
    decide_connect(broker, connection);
}

static void on_connect(struct scripted_broker *broker, struct connection *connection,
                       struct packet_reader *reader) {
    struct connect_packet packet = {0};
    struct bytes name = read_text(reader);
    connection->version = read_u8(reader);
    bool known = name.length == 4 && memcmp(name.at, "MQTT", 4) == 0 &&
                 (connection->version == 4 || connection->version == 5);
    if (connection->past != NULL)
        fault(broker, connection, 0x82, "a second CONNECT");
    else if (!known)
        fault(broker, connection, 0x84, "CONNECT of version %d", connection->version);
    else if (!read_connect(reader, connection->version, &packet))
        fault(broker, connection, 0x81, "malformed CONNECT");
    else
        take_connect(broker, connection, &packet);
}

// --- SUBSCRIBE, UNSUBSCRIBE ---

struct asked {
    char *filter;
    uint8_t options;
    const struct rule *rule; // or NULL
    bool retained;           // what is retained is to be delivered
};

static void free_asked(struct asked *asked, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(asked[i].filter);
}

// False: malformed. with_options: SUBSCRIBE.
static bool read_filters(struct packet_reader *reader, int version, bool with_options, struct asked *asked,
                         size_t *count) {
    while (!reader->fault && reader->left > 0 && *count < FILTERS_MAX) {
        struct bytes filter = read_text(reader);
        uint8_t options = with_options ? read_u8(reader) : 0;
        if (reader->fault || !filter_is_valid(filter) || (options & (version == 5 ? 0xC0 : 0xFC)) != 0 ||
            (options & 3) == 3 || (options & 0x30) == 0x30)
            return false;
        asked[(*count)++] = (struct asked){.filter = bytes_text(filter), .options = options};
    }
    return !reader->fault && reader->left == 0 && *count > 0;
}

static bool has_wildcard(const char *filter) {
    return strpbrk(filter, "+#") != NULL;
}

static bool limits_allow(struct scripted_broker *broker, struct connection *connection,
                         const struct asked *asked, uint32_t id) {
    const struct scripted_limits *limits = &connection->limits;
    if (strncmp(asked->filter, "$share/", 7) == 0)
        fault(broker, connection, 0x9E, "SUBSCRIBE to %s, which is shared", asked->filter);
    else if (limits->no_wildcards && has_wildcard(asked->filter))
        fault(broker, connection, 0xA2, "SUBSCRIBE to %s, which has wildcards", asked->filter);
    else if (limits->no_subscription_ids && id != 0)
        fault(broker, connection, 0xA1, "SUBSCRIBE to %s with an identifier", asked->filter);
    else
        return true;
    return false;
}

static void keep_subscribe(struct scripted_broker *broker, const struct connection *connection,
                           const struct asked *asked, uint32_t id, int reason) {
    struct scripted_subscribe *past = calloc(1, sizeof *past);
    *past = (struct scripted_subscribe){.client = strdup(connection->past->is.client),
                                        .filter = strdup(asked->filter),
                                        .qos = asked->options & 3,
                                        .retain_handling = asked->options >> 4 & 3,
                                        .no_local = (asked->options & 4) != 0,
                                        .id = id,
                                        .reason = reason};
    past_add(&broker->subscribes, past);
}

static void send_retained_late(struct scripted_broker *broker, struct connection *connection,
                               struct later *later) {
    if (connection != NULL && connection->session != NULL)
        deliver_retained(broker, connection->session, later->text, later->flag);
}

static void send_late(struct scripted_broker *broker, struct connection *connection, struct later *later) {
    if (connection != NULL)
        put_raw(&connection->out, (struct bytes){later->bytes.bytes, later->bytes.length});
}

// After SUBACK, filter by filter. When it is late, it is what is retained then.
static void send_retained(struct scripted_broker *broker, const struct connection *connection,
                          const struct asked *asked, unsigned delay) {
    bool reversed = asked->rule != NULL && asked->rule->is.retained_reversed;
    delay += asked->rule != NULL ? asked->rule->is.retained_delay : 0;
    if (delay == 0) {
        deliver_retained(broker, connection->session, asked->filter, reversed);
        return;
    }
    struct later *later = do_later(broker, connection, delay, send_retained_late);
    later->text = strdup(asked->filter);
    later->flag = reversed;
}

static uint8_t granted_qos(const struct connection *connection, uint8_t options) {
    uint8_t most = connection->limits.only_qos_0 ? 0 : 1;
    return (options & 3) < most ? options & 3 : most;
}

// The answer's reason.
static uint8_t subscribe_one(struct connection *connection, struct asked *asked, uint32_t id) {
    const struct scripted_rule *rule = asked->rule != NULL ? &asked->rule->is : NULL;
    uint8_t handling = asked->options >> 4 & 3;
    bool is_new;
    if (rule != NULL && rule->reason >= 0x80)
        return connection->version == 5 ? rule->reason : 0x80;
    struct subscription *subscription = subscribe(connection->session, asked->filter, &is_new);
    subscription->qos = granted_qos(connection, asked->options);
    subscription->no_local = (asked->options & 4) != 0 || (rule != NULL && rule->not_own);
    subscription->as_published = (asked->options & 8) != 0;
    subscription->nothing = rule != NULL && rule->nothing;
    subscription->id = id;
    asked->retained = handling == 0 || (handling == 1 && is_new);
    return subscription->qos;
}

static const struct rule *subscribe_rule(struct scripted_broker *broker, const struct connection *connection,
                                         const struct asked *asked) {
    struct packet_facts facts = {.event = SCRIPTED_SUBSCRIBE,
                                 .client = connection->past->is.client,
                                 .topic = asked->filter,
                                 .version = connection->version};
    return find_rule(broker, &facts);
}

static void send_suback(struct scripted_broker *broker, struct connection *connection, struct buffer *body,
                        unsigned delay) {
    if (delay == 0)
        put_packet(&connection->out, SUBACK << 4, body);
    else
        put_packet(&do_later(broker, connection, delay, send_late)->bytes, SUBACK << 4, body);
}

// A rule for the whole packet is the one of its last filter that has one.
static const struct scripted_rule *packet_rule(const struct asked *asked, size_t count) {
    static const struct scripted_rule none;
    for (size_t i = count; i-- > 0;)
        if (asked[i].rule != NULL)
            return &asked[i].rule->is;
    return &none;
}

static void finish_subscribe(struct scripted_broker *broker, struct connection *connection,
                             const struct asked *asked, size_t count, struct buffer *body) {
    const struct scripted_rule *rule = packet_rule(asked, count);
    if (rule->answer == SCRIPTED_CLOSES || (rule->disconnect != 0 && rule->answer != SCRIPTED_CLOSES_AFTER)) {
        disconnect(broker, connection, rule->disconnect, rule, "rule");
        return;
    }
    if (rule->answer != SCRIPTED_SILENT)
        send_suback(broker, connection, body, rule->delay);
    for (size_t i = 0; i < count; i++)
        if (asked[i].retained)
            send_retained(broker, connection, &asked[i], rule->delay);
    if (rule->answer == SCRIPTED_CLOSES_AFTER)
        disconnect(broker, connection, rule->disconnect, rule, "rule");
}

static void subscribe_all(struct scripted_broker *broker, struct connection *connection, struct asked *asked,
                          size_t count, uint32_t id, struct buffer *body) {
    for (size_t i = 0; i < count; i++) {
        asked[i].rule = subscribe_rule(broker, connection, &asked[i]);
        uint8_t reason = subscribe_one(connection, &asked[i], id);
        trace(broker, connection, "> SUBSCRIBE %s: 0x%02X", asked[i].filter, reason);
        keep_subscribe(broker, connection, &asked[i], id, reason);
        put_u8(body, reason);
    }
    finish_subscribe(broker, connection, asked, count, body);
}

static void on_subscribe(struct scripted_broker *broker, struct connection *connection,
                         struct packet_reader *reader) {
    struct asked asked[FILTERS_MAX];
    struct buffer body = {0};
    size_t count = 0;
    bool allowed = true;
    uint16_t packet_id = read_u16(reader);
    struct bytes properties =
        connection->version == 5 ? read_properties(reader, SUBSCRIBE) : (struct bytes){0};
    uint32_t id = property_number(properties, PROPERTY_SUBSCRIPTION_ID, 0);
    put_u16(&body, packet_id);
    if (connection->version == 5)
        put_u8(&body, 0);
    if (!read_filters(reader, connection->version, true, asked, &count) || packet_id == 0) {
        fault(broker, connection, 0x81, "malformed SUBSCRIBE");
        allowed = false;
    }
    for (size_t i = 0; i < count && allowed; i++)
        allowed = limits_allow(broker, connection, &asked[i], id);
    if (allowed)
        subscribe_all(broker, connection, asked, count, id, &body);
    buffer_free(&body);
    free_asked(asked, count);
}

static void on_unsubscribe(struct scripted_broker *broker, struct connection *connection,
                           struct packet_reader *reader) {
    struct asked asked[FILTERS_MAX];
    struct buffer body = {0};
    size_t count = 0;
    uint16_t packet_id = read_u16(reader);
    put_u16(&body, packet_id);
    if (connection->version == 5) {
        read_properties(reader, UNSUBSCRIBE);
        put_u8(&body, 0);
    }
    if (!read_filters(reader, connection->version, false, asked, &count) || packet_id == 0)
        fault(broker, connection, 0x81, "malformed UNSUBSCRIBE");
    for (size_t i = 0; i < count && !connection->leaves; i++) {
        bool was = unsubscribe(connection->session, asked[i].filter);
        trace(broker, connection, "> UNSUBSCRIBE %s", asked[i].filter);
        if (connection->version == 5)
            put_u8(&body, was ? 0 : 0x11);
    }
    if (!connection->leaves)
        put_packet(&connection->out, UNSUBACK << 4, &body);
    buffer_free(&body);
    free_asked(asked, count);
}

// --- the rest ---

static void on_puback(struct scripted_broker *broker, struct connection *connection,
                      struct packet_reader *reader) {
    uint16_t packet_id = read_u16(reader);
    if (connection->version == 5 && reader->left > 0)
        read_u8(reader); // whatever it says, it is the end of this message
    if (connection->version == 5 && reader->left > 0)
        read_properties(reader, PUBACK);
    if (reader->fault || reader->left > 0 || packet_id == 0)
        fault(broker, connection, 0x81, "malformed PUBACK");
    else
        session_acknowledged(broker, connection->session, packet_id);
}

static void dispatch(struct scripted_broker *broker, struct connection *connection, uint8_t first,
                     struct packet_reader *reader) {
    uint8_t flags = first & 15, type = first >> 4;
    uint8_t wanted = type == SUBSCRIBE || type == UNSUBSCRIBE ? 2 : 0;
    if (type != CONNECT && connection->session == NULL)
        fault(broker, connection, 0x82, "a packet of type %u before CONNECT", type);
    else if (type == PUBLISH)
        on_publish(broker, connection, flags, reader);
    else if (flags != wanted)
        fault(broker, connection, 0x81, "a packet of type %u with flags %u", type, flags);
    else if (type == CONNECT)
        on_connect(broker, connection, reader);
    else if (type == PUBACK)
        on_puback(broker, connection, reader);
    else if (type == SUBSCRIBE)
        on_subscribe(broker, connection, reader);
    else if (type == UNSUBSCRIBE)
        on_unsubscribe(broker, connection, reader);
    else if (type == PINGREQ && reader->left == 0)
        put_packet(&connection->out, PINGRESP << 4, &(struct buffer){0});
    else if (type == DISCONNECT)
        on_disconnect(broker, connection, reader);
    else
        fault(broker, connection, 0x82, "a packet of type %u", type);
}

static bool size_is_allowed(struct scripted_broker *broker, struct connection *connection, int64_t size) {
    uint32_t limit = connection->limits.maximum_packet_size;
    if (size < 0)
        fault(broker, connection, 0x81, "a packet without a length");
    else if ((limit > 0 && connection->version == 5 && size > limit) || size > PACKET_MAX)
        fault(broker, connection, 0x95, "a packet of %lld bytes, beyond the maximum", (long long)size);
    else
        return true;
    return false;
}

bool serve(struct scripted_broker *broker, struct connection *connection) {
    struct buffer *in = &connection->in;
    size_t header = 0;
    if (connection->leaves || connection->waits)
        return false;
    int64_t size = packet_size((struct bytes){in->bytes, in->length}, &header);
    if (size == 0 || !size_is_allowed(broker, connection, size) || in->length < (size_t)size)
        return false;
    struct packet_reader reader = {in->bytes + header, (size_t)size - header, false};
    dispatch(broker, connection, in->bytes[0], &reader);
    buffer_remove(in, (size_t)size);
    return true;
}
