// The scripted broker: PUBLISH of clients, and all that a rule can do to it; see scripted_broker.h.
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "tests/e2e/scripted_broker_parts.h"

struct publish {
    struct bytes topic, properties, payload;
    uint16_t packet_id;
    uint8_t qos;
    bool retain, dup;
    char *name; // of the topic, whole
};

static const struct scripted_rule no_rule;

// --- answers ---

static void answer(struct scripted_broker *broker, struct connection *connection, uint16_t packet_id,
                   const struct scripted_rule *rule) {
    struct buffer body = {0}, properties = {0};
    if (packet_id == 0 || connection->leaves)
        return;
    put_u16(&body, packet_id);
    if (connection->version == 5 && rule->reason != 0) {
        put_u8(&body, rule->reason);
        if (rule->text != NULL) {
            put_u8(&properties, PROPERTY_REASON_STRING);
            put_text(&properties, rule->text);
        }
        put_properties(&body, &properties);
        buffer_free(&properties);
    }
    put_packet(&connection->out, PUBACK << 4, &body);
    connection->unanswered_count -= connection->unanswered[packet_id];
    connection->unanswered[packet_id] = false;
    trace(broker, connection, "< PUBACK %u 0x%02X", packet_id, rule->reason);
}

static void answer_late(struct scripted_broker *broker, struct connection *connection, struct later *later) {
    if (connection == NULL)
        return;
    answer(broker, connection, later->packet_id, &later->rule->is);
    if (later->rule->is.answer == SCRIPTED_CLOSES_AFTER)
        disconnect(broker, connection, later->rule->is.disconnect, &later->rule->is, "rule");
}

static void answer_reversed(struct scripted_broker *broker, struct connection *connection,
                            struct later *later) {
    if (connection == NULL)
        return;
    while (connection->held_count > 0)
        answer(broker, connection, connection->held[--connection->held_count], &later->rule->is);
}

static struct later *find_later(struct scripted_broker *broker, const struct connection *connection,
                                later_act *act, const char *topic) {
    struct later *later;
    DL_FOREACH(broker->later, later)
    if (later->act == act && later->connection == connection->number &&
        (topic == NULL || strcmp(later->message->topic, topic) == 0))
        return later;
    return NULL;
}

static unsigned group_time(const struct rule *rule) {
    return rule->is.delay > 0 ? rule->is.delay : GROUP_TIME;
}

static void hold(struct scripted_broker *broker, struct connection *connection, uint16_t packet_id,
                 const struct rule *rule) {
    if (packet_id == 0 || connection->held_count == HELD_MAX)
        return;
    struct later *later = find_later(broker, connection, answer_reversed, NULL);
    if (later == NULL)
        later = do_later(broker, connection, group_time(rule), answer_reversed);
    later->rule = rule;
    connection->held[connection->held_count++] = packet_id;
    if (connection->held_count < rule->is.reverse)
        return;
    answer_reversed(broker, connection, later);
    drop_later(broker, later);
}

// --- two retained writes that change places ---

static void finish_swapped(struct scripted_broker *broker, struct connection *connection,
                           struct later *later) {
    struct session *from = connection != NULL ? connection->session : NULL;
    route(broker, later->message, from, later->rule->is.strip);
    if (connection != NULL)
        answer(broker, connection, later->packet_id, &no_rule);
}

// When nothing waits for this one, it waits for the next one itself.
static void swap(struct scripted_broker *broker, struct connection *connection, struct message *message,
                 uint16_t packet_id, struct rule *rule) {
    struct later *first = find_later(broker, connection, finish_swapped, message->topic);
    if (first == NULL) {
        first = do_later(broker, connection, group_time(rule), finish_swapped);
        first->message = message_keep(message);
        first->packet_id = packet_id;
        first->rule = rule;
        return;
    }
    rule->hits++;
    trace(broker, connection, "two writes to %s change places", message->topic);
    route(broker, message, connection->session, rule->is.strip);
    answer(broker, connection, packet_id, &no_rule);
    finish_swapped(broker, connection, first);
    drop_later(broker, first);
}

// --- what the rule says ---

static bool closes(const struct scripted_rule *rule) {
    return rule->answer == SCRIPTED_CLOSES ||
           (rule->disconnect != 0 && rule->answer != SCRIPTED_CLOSES_AFTER);
}

static bool is_routed(const struct scripted_rule *rule) {
    return rule->reason < 0x80 && !rule->drop && (!closes(rule) || rule->taken);
}

static void finish_publish(struct scripted_broker *broker, struct connection *connection, uint16_t packet_id,
                           const struct rule *rule) {
    if (closes(&rule->is))
        disconnect(broker, connection, rule->is.disconnect, &rule->is, "rule");
    else if (rule->is.reverse > 0)
        hold(broker, connection, packet_id, rule);
    else if (rule->is.delay > 0) {
        struct later *later = do_later(broker, connection, rule->is.delay, answer_late);
        later->packet_id = packet_id;
        later->rule = rule;
    } else if (rule->is.answer != SCRIPTED_SILENT)
        answer(broker, connection, packet_id, &rule->is);
    if (rule->is.answer == SCRIPTED_CLOSES_AFTER && rule->is.delay == 0)
        disconnect(broker, connection, rule->is.disconnect, &rule->is, "rule");
}

static void take(struct scripted_broker *broker, struct connection *connection, const struct publish *publish,
                 struct rule *rule) {
    struct message *message =
        message_new(publish->name, publish->payload, publish->qos, publish->retain, publish->properties);
    message->again = rule->is.again;
    if (rule->is.swap && publish->retain) {
        swap(broker, connection, message, publish->packet_id, rule);
    } else {
        if (is_routed(&rule->is))
            route(broker, message, connection->session, rule->is.strip);
        finish_publish(broker, connection, publish->packet_id, rule);
    }
    message_drop(message);
}

// --- what came ---

static void keep_past(struct scripted_broker *broker, const struct connection *connection,
                      const struct publish *publish) {
    struct scripted_publish *past = calloc(1, sizeof *past);
    struct bytes properties = publish->properties;
    uint32_t expiry = property_number(properties, PROPERTY_EXPIRY, UINT32_MAX);
    *past = (struct scripted_publish){
        .client = strdup(connection->past->is.client),
        .topic = strdup(publish->name),
        .payload = bytes_text(publish->payload),
        .length = publish->payload.length,
        .packet_id = publish->packet_id,
        .qos = publish->qos,
        .retain = publish->retain,
        .dup = publish->dup,
        .response_topic = bytes_text(property_bytes(properties, PROPERTY_RESPONSE_TOPIC)),
        .correlation = bytes_text(property_bytes(properties, PROPERTY_CORRELATION)),
        .content_type = bytes_text(property_bytes(properties, PROPERTY_CONTENT_TYPE)),
        .user_properties = user_properties_text(properties),
        .expiry = expiry == UINT32_MAX ? -1 : (int64_t)expiry,
        .time = scripted_clock(),
        .connection = connection->number};
    past_add(&broker->publishes, past);
}

// The topic, or what stood there before for its alias.
static char *resolve_topic(struct connection *connection, const struct publish *publish) {
    uint32_t alias = property_number(publish->properties, PROPERTY_TOPIC_ALIAS, 0);
    if (alias > connection->limits.topic_alias_maximum || alias > ALIASES_MAX)
        return NULL;
    if (alias > 0 && publish->topic.length > 0) {
        free(connection->aliases[alias]);
        connection->aliases[alias] = bytes_text(publish->topic);
    }
    if (publish->topic.length > 0)
        return topic_is_valid(publish->topic) ? bytes_text(publish->topic) : NULL;
    return connection->aliases[alias] != NULL ? strdup(connection->aliases[alias]) : NULL;
}

static bool response_topic_is_valid(struct bytes properties) {
    struct bytes topic = property_bytes(properties, PROPERTY_RESPONSE_TOPIC);
    return topic.at == NULL || topic_is_valid(topic);
}

// Of what CONNACK said, and of the protocol. True: all is well.
static bool is_within_limits(struct scripted_broker *broker, struct connection *connection,
                             const struct publish *publish) {
    const struct scripted_limits *limits = &connection->limits;
    uint32_t maximum = limits->receive_maximum > 0 ? limits->receive_maximum : 65535;
    if (publish->qos > (limits->only_qos_0 ? 0 : 1))
        fault(broker, connection, 0x9B, "PUBLISH at QoS %u, beyond the maximum", publish->qos);
    else if (publish->retain && limits->no_retain)
        fault(broker, connection, 0x9A, "retained PUBLISH, which is not available");
    else if (publish->qos > 0 && connection->unanswered[publish->packet_id])
        fault(broker, connection, 0x82, "packet id %u used twice", publish->packet_id);
    else if (publish->qos > 0 && connection->unanswered_count >= maximum)
        fault(broker, connection, 0x93, "more than %u publishes under way", maximum);
    else
        return true;
    return false;
}

static bool read_publish(struct connection *connection, uint8_t flags, struct packet_reader *reader,
                         struct publish *publish) {
    publish->dup = (flags & 8) != 0;
    publish->qos = flags >> 1 & 3;
    publish->retain = (flags & 1) != 0;
    publish->topic = read_text(reader);
    publish->packet_id = publish->qos > 0 ? read_u16(reader) : 0;
    if (connection->version == 5)
        publish->properties = read_properties(reader, PUBLISH);
    publish->payload = read_rest(reader);
    return !reader->fault && publish->qos < 3 && (publish->qos == 0) == (publish->packet_id == 0) &&
           !(publish->dup && publish->qos == 0) && response_topic_is_valid(publish->properties);
}

static void handle(struct scripted_broker *broker, struct connection *connection,
                   const struct publish *publish) {
    static struct rule none; // nothing in it ever changes
    struct packet_facts facts = {.event = SCRIPTED_PUBLISH,
                                 .client = connection->past->is.client,
                                 .topic = publish->name,
                                 .version = connection->version,
                                 .payload = publish->payload,
                                 .retain = publish->retain};
    trace(broker, connection, "> PUBLISH %s, %zu bytes, QoS %u%s%s, id %u", publish->name,
          publish->payload.length, publish->qos, publish->retain ? ", retained" : "",
          publish->dup ? ", again" : "", publish->packet_id);
    if (!is_within_limits(broker, connection, publish))
        return;
    keep_past(broker, connection, publish);
    if (publish->qos > 0) {
        connection->unanswered[publish->packet_id] = true;
        connection->unanswered_count++;
    }
    struct rule *rule = find_rule(broker, &facts);
    take(broker, connection, publish, rule != NULL ? rule : &none);
}

void on_publish(struct scripted_broker *broker, struct connection *connection, uint8_t flags,
                struct packet_reader *reader) {
    struct publish publish = {0};
    if (!read_publish(connection, flags, reader, &publish)) {
        fault(broker, connection, 0x81, "malformed PUBLISH");
        return;
    }
    publish.name = resolve_topic(connection, &publish);
    if (publish.name == NULL)
        fault(broker, connection, 0x90, "PUBLISH to no valid topic");
    else
        handle(broker, connection, &publish);
    free(publish.name);
}
