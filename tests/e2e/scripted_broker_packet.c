// Packets of MQTT; see scripted_broker_packet.h.
#include "tests/e2e/scripted_broker_packet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- reading ---

static const uint8_t *take(struct packet_reader *reader, size_t length) {
    static const uint8_t zeros[4];
    if (length > reader->left)
        reader->fault = true;
    if (reader->fault)
        return length <= sizeof zeros ? zeros : NULL;
    const uint8_t *at = reader->at;
    reader->at += length;
    reader->left -= length;
    return at;
}

uint8_t read_u8(struct packet_reader *reader) {
    return *take(reader, 1);
}

uint16_t read_u16(struct packet_reader *reader) {
    const uint8_t *at = take(reader, 2);
    return (uint16_t)(at[0] << 8 | at[1]);
}

uint32_t read_u32(struct packet_reader *reader) {
    uint32_t high = read_u16(reader);
    return high << 16 | read_u16(reader);
}

uint32_t read_varint(struct packet_reader *reader) {
    uint32_t value = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint8_t byte = read_u8(reader);
        value |= (uint32_t)(byte & 0x7F) << 7 * i;
        if ((byte & 0x80) == 0)
            return value;
    }
    reader->fault = true;
    return 0;
}

static struct bytes read_bytes(struct packet_reader *reader, size_t length) {
    const uint8_t *at = take(reader, length);
    return reader->fault ? (struct bytes){0} : (struct bytes){at, length};
}

struct bytes read_binary(struct packet_reader *reader) {
    return read_bytes(reader, read_u16(reader));
}

struct bytes read_rest(struct packet_reader *reader) {
    return read_bytes(reader, reader->left);
}

// Bytes that follow the first one of a character; 4: it cannot begin one.
static unsigned utf8_followers(uint8_t first) {
    if (first < 0x80)
        return first == 0 ? 4 : 0;
    if (first >= 0xC2 && first < 0xE0)
        return 1;
    if (first >= 0xE0 && first < 0xF0)
        return 2;
    return first >= 0xF0 && first < 0xF5 ? 3 : 4;
}

// Neither longer than need be, nor a surrogate, nor beyond the last one.
static bool utf8_second_fits(uint8_t first, uint8_t second) {
    switch (first) {
    case 0xE0:
        return second >= 0xA0;
    case 0xED:
        return second < 0xA0;
    case 0xF0:
        return second >= 0x90;
    case 0xF4:
        return second < 0x90;
    default:
        return true;
    }
}

static bool is_utf8(struct bytes text) {
    for (size_t i = 0; i < text.length;) {
        uint8_t first = text.at[i++];
        unsigned followers = utf8_followers(first);
        if (followers > 3 || text.length - i < followers)
            return false;
        if (followers > 0 && !utf8_second_fits(first, text.at[i]))
            return false;
        for (; followers > 0; followers--)
            if ((text.at[i++] & 0xC0) != 0x80)
                return false;
    }
    return true;
}

struct bytes read_text(struct packet_reader *reader) {
    struct bytes text = read_binary(reader);
    if (!is_utf8(text))
        reader->fault = true;
    return text;
}

int64_t packet_size(struct bytes bytes, size_t *header) {
    struct packet_reader reader = {bytes.at, bytes.length, false};
    if (bytes.length < 2)
        return 0;
    read_u8(&reader); // its type
    uint32_t rest = read_varint(&reader);
    if (reader.fault)
        return bytes.length < 5 ? 0 : -1;
    *header = bytes.length - reader.left;
    return (int64_t)*header + rest;
}

// --- properties ---

enum property_type { BOOLEAN, U16, U32, VARINT, TEXT, BINARY, PAIR };

#define IN(packet) (1U << (packet))

// Those that come from a client; what comes from a broker alone is a fault.
static const struct property_kind {
    uint8_t id;
    enum property_type type;
    bool not_zero;
    uint32_t packets;
} kinds[] = {
    {0x01, BOOLEAN, false, IN(PUBLISH) | IN(WILL)},
    {PROPERTY_EXPIRY, U32, false, IN(PUBLISH) | IN(WILL)},
    {PROPERTY_CONTENT_TYPE, TEXT, false, IN(PUBLISH) | IN(WILL)},
    {PROPERTY_RESPONSE_TOPIC, TEXT, false, IN(PUBLISH) | IN(WILL)},
    {PROPERTY_CORRELATION, BINARY, false, IN(PUBLISH) | IN(WILL)},
    {PROPERTY_SUBSCRIPTION_ID, VARINT, true, IN(SUBSCRIBE)},
    {PROPERTY_SESSION_EXPIRY, U32, false, IN(CONNECT) | IN(DISCONNECT)},
    {0x15, TEXT, false, IN(CONNECT)},
    {0x16, BINARY, false, IN(CONNECT)},
    {0x17, BOOLEAN, false, IN(CONNECT)},
    {PROPERTY_WILL_DELAY, U32, false, IN(WILL)},
    {0x19, BOOLEAN, false, IN(CONNECT)},
    {PROPERTY_REASON_STRING, TEXT, false, IN(PUBACK) | IN(DISCONNECT)},
    {PROPERTY_RECEIVE_MAXIMUM, U16, true, IN(CONNECT)},
    {PROPERTY_TOPIC_ALIAS_MAXIMUM, U16, false, IN(CONNECT)},
    {PROPERTY_TOPIC_ALIAS, U16, true, IN(PUBLISH)},
    {PROPERTY_USER, PAIR, false, ~0U},
    {PROPERTY_MAXIMUM_PACKET_SIZE, U32, true, IN(CONNECT)},
};

struct property {
    uint8_t id;
    uint32_t number;
    struct bytes name, value; // name: of a pair
    struct bytes raw;
};

static const struct property_kind *find_kind(uint8_t id) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].id == id)
            return &kinds[i];
    return NULL;
}

static void read_value(struct packet_reader *reader, enum property_type type, struct property *property) {
    switch (type) {
    case BOOLEAN:
        property->number = read_u8(reader);
        reader->fault |= property->number > 1;
        break;
    case U16:
        property->number = read_u16(reader);
        break;
    case U32:
        property->number = read_u32(reader);
        break;
    case VARINT:
        property->number = read_varint(reader);
        break;
    case PAIR:
        property->name = read_text(reader);
        property->value = read_text(reader);
        break;
    case TEXT:
        property->value = read_text(reader);
        break;
    case BINARY:
        property->value = read_binary(reader);
        break;
    }
}

static const struct property_kind *read_property(struct packet_reader *reader, struct property *property) {
    const uint8_t *start = reader->at;
    *property = (struct property){.id = read_u8(reader)};
    const struct property_kind *kind = find_kind(property->id);
    if (kind == NULL)
        reader->fault = true;
    else
        read_value(reader, kind->type, property);
    property->raw = (struct bytes){start, (size_t)(reader->at - start)};
    return reader->fault ? NULL : kind;
}

// Is this one allowed, and the first of its kind?
static bool is_allowed(const struct property_kind *kind, const struct property *property,
                       enum packet_type packet, uint64_t *seen) {
    bool repeated = (*seen >> kind->id & 1) != 0 && kind->type != PAIR;
    *seen |= 1ULL << kind->id;
    return (kind->packets & IN(packet)) != 0 && !repeated && !(kind->not_zero && property->number == 0);
}

struct bytes read_properties(struct packet_reader *reader, enum packet_type packet) {
    struct bytes properties = read_bytes(reader, read_varint(reader));
    struct packet_reader inner = {properties.at, properties.length, reader->fault};
    struct property property;
    uint64_t seen = 0;
    while (!inner.fault && inner.left > 0) {
        const struct property_kind *kind = read_property(&inner, &property);
        if (kind == NULL || !is_allowed(kind, &property, packet, &seen))
            inner.fault = true;
    }
    reader->fault = inner.fault;
    return reader->fault ? (struct bytes){0} : properties;
}

static bool next_property(struct packet_reader *reader, struct property *property) {
    return reader->left > 0 && read_property(reader, property) != NULL;
}

static bool find_property(struct bytes properties, enum property_id id, struct property *property) {
    struct packet_reader reader = {properties.at, properties.length, false};
    while (next_property(&reader, property))
        if (property->id == id)
            return true;
    return false;
}

uint32_t property_number(struct bytes properties, enum property_id id, uint32_t absent) {
    struct property property;
    return find_property(properties, id, &property) ? property.number : absent;
}

struct bytes property_bytes(struct bytes properties, enum property_id id) {
    struct property property;
    return find_property(properties, id, &property) ? property.value : (struct bytes){0};
}

void put_passed_properties(struct buffer *buffer, struct bytes properties, bool with_user) {
    struct packet_reader reader = {properties.at, properties.length, false};
    struct property property;
    while (next_property(&reader, &property))
        if (property.id != PROPERTY_TOPIC_ALIAS && property.id != PROPERTY_WILL_DELAY &&
            (with_user || property.id != PROPERTY_USER))
            put_raw(buffer, property.raw);
}

char *user_properties_text(struct bytes properties) {
    struct packet_reader reader = {properties.at, properties.length, false};
    struct property property;
    struct buffer text = {0};
    while (next_property(&reader, &property)) {
        if (property.id != PROPERTY_USER)
            continue;
        put_raw(&text, property.name);
        put_u8(&text, '=');
        put_raw(&text, property.value);
        put_u8(&text, '\n');
    }
    put_u8(&text, '\0');
    return (char *)text.bytes;
}

// --- writing ---

void put_raw(struct buffer *buffer, struct bytes bytes) {
    if (buffer->length + bytes.length > buffer->capacity) {
        buffer->capacity = (buffer->length + bytes.length) * 2 + 32;
        buffer->bytes = realloc(buffer->bytes, buffer->capacity);
    }
    if (bytes.length > 0)
        memcpy(buffer->bytes + buffer->length, bytes.at, bytes.length);
    buffer->length += bytes.length;
}

void put_u8(struct buffer *buffer, uint8_t value) {
    put_raw(buffer, (struct bytes){&value, 1});
}

void put_u16(struct buffer *buffer, uint16_t value) {
    put_u8(buffer, (uint8_t)(value >> 8));
    put_u8(buffer, (uint8_t)value);
}

void put_u32(struct buffer *buffer, uint32_t value) {
    put_u16(buffer, (uint16_t)(value >> 16));
    put_u16(buffer, (uint16_t)value);
}

void put_varint(struct buffer *buffer, uint32_t value) {
    for (; value > 0x7F; value >>= 7)
        put_u8(buffer, (uint8_t)(value | 0x80));
    put_u8(buffer, (uint8_t)value);
}

void put_text(struct buffer *buffer, const char *text) {
    put_u16(buffer, (uint16_t)strlen(text));
    put_raw(buffer, (struct bytes){(const uint8_t *)text, strlen(text)});
}

void put_properties(struct buffer *buffer, const struct buffer *properties) {
    put_varint(buffer, (uint32_t)properties->length);
    put_raw(buffer, (struct bytes){properties->bytes, properties->length});
}

void put_packet(struct buffer *buffer, uint8_t first, struct buffer *body) {
    put_u8(buffer, first);
    put_varint(buffer, (uint32_t)body->length);
    put_raw(buffer, (struct bytes){body->bytes, body->length});
    buffer_free(body);
}

void buffer_remove(struct buffer *buffer, size_t length) {
    buffer->length -= length;
    if (buffer->length > 0)
        memmove(buffer->bytes, buffer->bytes + length, buffer->length);
}

void buffer_free(struct buffer *buffer) {
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}

char *bytes_text(struct bytes bytes) {
    if (bytes.at == NULL)
        return NULL;
    char *text = malloc(bytes.length + 1);
    memcpy(text, bytes.at, bytes.length);
    text[bytes.length] = '\0';
    return text;
}

// --- topics ---

bool topic_is_valid(struct bytes topic) {
    return topic.length > 0 && memchr(topic.at, '+', topic.length) == NULL &&
           memchr(topic.at, '#', topic.length) == NULL;
}

// A + is a whole level, a # the whole last one.
bool filter_is_valid(struct bytes filter) {
    for (size_t i = 0; i < filter.length; i++) {
        bool begins = i == 0 || filter.at[i - 1] == '/', last = i + 1 == filter.length;
        if (filter.at[i] == '+' && (!begins || !(last || filter.at[i + 1] == '/')))
            return false;
        if (filter.at[i] == '#' && (!begins || !last))
            return false;
    }
    return filter.length > 0;
}

// Both begin with a level: how long is it?
static size_t level(const char *text) {
    return strcspn(text, "/");
}

bool topic_matches(const char *filter, const char *topic) {
    if (*topic == '$' && *filter != '$')
        return false;
    for (;;) {
        size_t wanted = level(filter), there = level(topic);
        if (*filter == '#')
            return true;
        if (*filter != '+' && (wanted != there || strncmp(filter, topic, there) != 0))
            return false;
        filter += wanted;
        topic += there;
        if (*topic == '\0')
            return *filter == '\0' || strcmp(filter, "/#") == 0;
        if (*filter == '\0')
            return false;
        filter++;
        topic++;
    }
}
