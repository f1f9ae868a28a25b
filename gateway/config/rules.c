// Rules that a schema cannot say; see rules.h.
#include "gateway/config/rules.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/address.h"
#include "gateway/base/clean.h"
#include "gateway/base/text.h"

#define MQTT_TEXT_MAX 65535 // bytes

// --- texts ---

// MQTT forbids them, or lets a broker end the connection for them.
static bool is_forbidden(uint32_t character) {
    return character < 0x20 || (character >= 0x7F && character <= 0x9F) ||
           (character >= 0xFDD0 && character <= 0xFDEF) || (character & 0xFFFE) == 0xFFFE;
}

static void check_text(struct faults *faults, const char *path, const char *text) {
    size_t length = text != NULL ? strlen(text) : 0, size;
    if (length > MQTT_TEXT_MAX)
        faults_add(faults, path, "has %zu bytes, expected at most %d", length, MQTT_TEXT_MAX);
    for (size_t at = 0; at < length; at += size) {
        uint32_t character = clean_decode(text + at, length - at, &size);
        if (!is_forbidden(character))
            continue;
        if (character == CLEAN_INVALID)
            faults_add(faults, path, "is not UTF-8, expected text that MQTT can carry");
        else
            faults_add(faults, path, "has the character U+%04X, expected text that MQTT can carry",
                       character);
        return;
    }
}

void rules_check_texts(struct faults *faults, const struct config *config) {
    size_t length = config->mqtt.password != NULL ? strlen(config->mqtt.password) : 0;
    check_text(faults, "$.mqtt.client_id", config->mqtt.client_id);
    check_text(faults, "$.mqtt.username", config->mqtt.username);
    check_text(faults, "$.mqtt.topic_prefix", config->mqtt.topic_prefix);
    check_text(faults, "$.home_assistant.prefix", config->home_assistant.prefix);
    check_text(faults, "$.owntracks.prefix", config->owntracks.prefix);
    if (length > MQTT_TEXT_MAX)
        faults_add(faults, config->password_text != NULL ? "$.mqtt.password_file" : "$.mqtt.password",
                   "has %zu bytes, expected at most %d", length, MQTT_TEXT_MAX);
}

// --- channels ---

static bool is_any(const struct sockaddr_storage *address) {
    static const unsigned char none[16];
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)address;
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
    return address->ss_family == AF_INET6 ? memcmp(&six->sin6_addr, none, sizeof none) == 0
                                          : four->sin_addr.s_addr == htonl(INADDR_ANY);
}

// Whether a socket at one address would be in the way of one at the other. [::] listens for IPv4 as well, and
// 0.0.0.0 not for IPv6.
static bool collide(const struct sockaddr_storage *one, const struct sockaddr_storage *other) {
    static const unsigned char any_port[2];
    struct address_key first = address_key_of((const struct sockaddr *)one);
    struct address_key second = address_key_of((const struct sockaddr *)other);
    if (memcmp(first.port, second.port, sizeof any_port) != 0 ||
        memcmp(first.port, any_port, sizeof any_port) == 0)
        return false;
    bool covers = is_any(one) && (one->ss_family == other->ss_family || one->ss_family == AF_INET6);
    bool covered = is_any(other) && (one->ss_family == other->ss_family || other->ss_family == AF_INET6);
    return covers || covered || memcmp(first.ip, second.ip, sizeof first.ip) == 0;
}

static void check_place(struct faults *faults, const char *key, size_t index, size_t before,
                        const struct sockaddr_storage *here, const struct sockaddr_storage *there) {
    char path[48], text[ADDRESS_TEXT_MAX], other[ADDRESS_TEXT_MAX];
    if (!collide(here, there))
        return;
    snprintf(path, sizeof path, "$.channels[%zu].%s", index, key);
    faults_add(faults, path, "is \"%s\", but $.channels[%zu].%s is \"%s\", expected a port of its own",
               address_write((const struct sockaddr *)here, text), before, key,
               address_write((const struct sockaddr *)there, other));
}

static void check_pair(struct faults *faults, const struct config *config, size_t index, size_t before) {
    const struct config_channel *here = &config->channels[index], *there = &config->channels[before];
    char path[48];
    snprintf(path, sizeof path, "$.channels[%zu]", index);
    if (here->id == there->id && here->id != 0)
        faults_add(faults, path, "has the id %lld, which $.channels[%zu] already has", (long long)here->id,
                   before);
    if (here->has_tcp && there->has_tcp)
        check_place(faults, "tcp", index, before, &here->tcp, &there->tcp);
    if (here->has_udp && there->has_udp)
        check_place(faults, "udp", index, before, &here->udp, &there->udp);
}

static void check_page(struct faults *faults, const struct config *config) {
    struct sockaddr_storage page;
    char text[ADDRESS_TEXT_MAX];
    if (config->web.listen == NULL || !address_parse(config->web.listen, &page))
        return;
    for (size_t i = 0; i < config->channel_count; i++) {
        const struct config_channel *channel = &config->channels[i];
        if (channel->has_tcp && collide(&page, &channel->tcp))
            faults_add(faults, "$.web.listen",
                       "is \"%s\", but $.channels[%zu].tcp is \"%s\", expected a port of its own",
                       config->web.listen, i, address_write((const struct sockaddr *)&channel->tcp, text));
    }
}

void rules_check_channels(struct faults *faults, const struct config *config) {
    for (size_t i = 0; i < config->channel_count; i++)
        for (size_t before = 0; before < i; before++)
            check_pair(faults, config, i, before);
    check_page(faults, config);
}

// --- devices ---

struct places {
    struct faults *faults;
    const struct config *config;
    size_t inner;
    json_t *places; // of idents, or of ids, by the text of them
};

// Where the device of that index stands: "$.devices[3]" or "devices.json[0]"; for the caller to free.
static char *place_of(const struct places *places, size_t index) {
    if (index < places->inner)
        return text_format("$.devices[%zu]", index);
    return text_format("%s[%zu]", places->config->devices_file, index - places->inner);
}

static void check_unique(const struct places *places, const char *what, const char *text, size_t index) {
    const json_t *before = json_object_get(places->places, text);
    if (before == NULL) {
        json_object_set_new(places->places, text, json_integer((json_int_t)index));
        return;
    }
    char *here = place_of(places, index), *there = place_of(places, (size_t)json_integer_value(before));
    faults_add(places->faults, here, "%s and %s have the %s %s, expected an %s for each", there, here, what,
               text, what);
    free(here);
    free(there);
}

// Without comparing each with each: there may be a hundred thousand.
void rules_check_devices(struct faults *faults, const struct config *config,
                         const struct config_devices *devices, size_t inner) {
    const struct places idents = {faults, config, inner, json_object()};
    const struct places ids = {faults, config, inner, json_object()};
    for (size_t i = 0; i < devices->count; i++) {
        const struct config_device *device = &devices->list[i];
        char id[24];
        snprintf(id, sizeof id, "%lld", (long long)device->id);
        if (device->ident == NULL)
            continue; // the schema has said so
        check_unique(&idents, "ident", device->ident, i);
        check_unique(&ids, "id", id, i);
    }
    json_decref(idents.places);
    json_decref(ids.places);
}
