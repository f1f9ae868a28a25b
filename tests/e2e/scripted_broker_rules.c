// The scripted broker: which rule is for a packet, and what clients did wrong; see scripted_broker.h.
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/scripted_broker_parts.h"

#define SECOND 1000 // milliseconds

// --- what a rule is for ---

static bool topic_fits(const struct scripted_rule *rule, const struct packet_facts *facts) {
    if (rule->topic == NULL || facts->topic == NULL)
        return rule->topic == NULL;
    return facts->event == SCRIPTED_SUBSCRIBE ? strcmp(rule->topic, facts->topic) == 0
                                              : topic_matches(rule->topic, facts->topic);
}

static bool payload_fits(const struct scripted_rule *rule, struct bytes payload) {
    if (rule->larger_than > 0 && payload.length <= rule->larger_than)
        return false;
    return rule->containing == NULL ||
           (payload.length > 0 &&
            memmem(payload.at, payload.length, rule->containing, strlen(rule->containing)) != NULL);
}

static bool fits(const struct scripted_rule *rule, const struct packet_facts *facts) {
    return rule->on == facts->event &&
           (rule->client == NULL || fnmatch(rule->client, facts->client, 0) == 0) &&
           (rule->version == 0 || rule->version == facts->version) && topic_fits(rule, facts) &&
           payload_fits(rule, facts->payload) && (!rule->retained || facts->retain);
}

// Within a second that begins with the first match after the last one.
static bool is_above_rate(struct rule *rule) {
    int64_t now = scripted_clock();
    if (rule->is.rate == 0)
        return true;
    if (rule->second == 0 || now - rule->second >= SECOND) {
        rule->second = now;
        rule->in_second = 0;
    }
    return ++rule->in_second > rule->is.rate;
}

static bool acts(struct rule *rule, const struct packet_facts *facts) {
    if (rule->unset || !fits(&rule->is, facts) || !is_above_rate(rule))
        return false;
    rule->matches++;
    return rule->matches >= rule->is.from && (rule->is.times == 0 || rule->hits < rule->is.times);
}

struct rule *find_rule(struct scripted_broker *broker, const struct packet_facts *facts) {
    for (int i = 0; i < broker->rule_count; i++) {
        struct rule *rule = &broker->rules[i];
        if (!acts(rule, facts))
            continue;
        rule->hits += !rule->is.swap;
        trace(broker, NULL, "rule %d acts on %s of %s", i,
              facts->topic != NULL ? facts->topic : "the connection", facts->client);
        return rule;
    }
    return NULL;
}

// --- what the test calls ---

int scripted_broker_set(struct scripted_broker *broker, struct scripted_rule rule) {
    lock(broker);
    int number = broker->rule_count;
    bool has_room = number < RULES_MAX;
    if (has_room)
        broker->rules[broker->rule_count++] = (struct rule){.is = rule};
    unlock(broker);
    cr_assert(has_room, "the scripted broker takes %d rules", RULES_MAX);
    cr_assert(rule.reverse <= HELD_MAX, "the scripted broker reverses at most %d answers", HELD_MAX);
    return number;
}

void scripted_broker_unset(struct scripted_broker *broker, int rule) {
    lock(broker);
    broker->rules[rule].unset = true;
    unlock(broker);
}

unsigned scripted_broker_hits(struct scripted_broker *broker, int rule) {
    lock(broker);
    unsigned hits = broker->rules[rule].hits;
    unlock(broker);
    return hits;
}

// --- faults of clients ---

static const char *client_of(const struct connection *connection) {
    return connection->past != NULL ? connection->past->is.client : "a client";
}

void fault(struct scripted_broker *broker, struct connection *connection, uint8_t reason, const char *format,
           ...) {
    char what[256], line[512];
    va_list values;
    va_start(values, format);
    vsnprintf(what, sizeof what, format, values);
    va_end(values);
    int length = snprintf(line, sizeof line, "%s (connection %u): %s\n", client_of(connection),
                          connection->number, what);
    size_t kept = (size_t)length < sizeof line ? (size_t)length : sizeof line - 1;
    put_raw(&broker->faults, (struct bytes){(const uint8_t *)line, kept});
    trace(broker, connection, "FAULT: %s", what);
    disconnect(broker, connection, reason, NULL, "fault");
}

char *scripted_broker_take_faults(struct scripted_broker *broker) {
    lock(broker);
    struct bytes bytes = {broker->faults.length > 0 ? broker->faults.bytes : NULL, broker->faults.length};
    char *text = bytes_text(bytes);
    buffer_free(&broker->faults);
    unlock(broker);
    return text;
}
