// Packets of MQTT 3.1.1 and 5: reading with bounds, writing, properties; for the scripted broker.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum packet_type {
    CONNECT = 1,
    CONNACK,
    PUBLISH,
    PUBACK,
    SUBSCRIBE = 8,
    SUBACK,
    UNSUBSCRIBE,
    UNSUBACK,
    PINGREQ,
    PINGRESP,
    DISCONNECT,
    WILL = 16, // not a packet: the properties of a Last Will
};

enum property_id {
    PROPERTY_EXPIRY = 0x02,
    PROPERTY_CONTENT_TYPE = 0x03,
    PROPERTY_RESPONSE_TOPIC = 0x08,
    PROPERTY_CORRELATION = 0x09,
    PROPERTY_SUBSCRIPTION_ID = 0x0B,
    PROPERTY_SESSION_EXPIRY = 0x11,
    PROPERTY_ASSIGNED_ID = 0x12,
    PROPERTY_SERVER_KEEP_ALIVE = 0x13,
    PROPERTY_WILL_DELAY = 0x18,
    PROPERTY_SERVER_REFERENCE = 0x1C,
    PROPERTY_REASON_STRING = 0x1F,
    PROPERTY_RECEIVE_MAXIMUM = 0x21,
    PROPERTY_TOPIC_ALIAS_MAXIMUM = 0x22,
    PROPERTY_TOPIC_ALIAS = 0x23,
    PROPERTY_MAXIMUM_QOS = 0x24,
    PROPERTY_RETAIN_AVAILABLE = 0x25,
    PROPERTY_USER = 0x26,
    PROPERTY_MAXIMUM_PACKET_SIZE = 0x27,
    PROPERTY_WILDCARDS_AVAILABLE = 0x28,
    PROPERTY_SUBSCRIPTION_IDS_AVAILABLE = 0x29,
    PROPERTY_SHARED_AVAILABLE = 0x2A,
};

struct bytes {
    const uint8_t *at; // NULL: absent
    size_t length;
};

// After a read beyond the end, or of what must not be, the fault stays and every read gives 0.
struct packet_reader {
    const uint8_t *at;
    size_t left;
    bool fault;
};

// Grows as needed. Starts as {0}; free bytes.
struct buffer {
    uint8_t *bytes;
    size_t length, capacity;
};

uint8_t read_u8(struct packet_reader *reader);
uint16_t read_u16(struct packet_reader *reader);
uint32_t read_u32(struct packet_reader *reader);
uint32_t read_varint(struct packet_reader *reader);
struct bytes read_binary(struct packet_reader *reader);
struct bytes read_text(struct packet_reader *reader); // UTF-8 without NUL
struct bytes read_rest(struct packet_reader *reader);
// Those that a client may put into this kind of packet, each once but for user properties.
struct bytes read_properties(struct packet_reader *reader, enum packet_type packet);

// The size of the packet that bytes begin with; 0: not all of its header is there; -1: there is no such
// packet.
int64_t packet_size(struct bytes bytes, size_t *header);

void put_u8(struct buffer *buffer, uint8_t value);
void put_u16(struct buffer *buffer, uint16_t value);
void put_u32(struct buffer *buffer, uint32_t value);
void put_varint(struct buffer *buffer, uint32_t value);
void put_raw(struct buffer *buffer, struct bytes bytes);
void put_text(struct buffer *buffer, const char *text);
// Properties, with their length before them.
void put_properties(struct buffer *buffer, const struct buffer *properties);
// A whole packet; frees its body.
void put_packet(struct buffer *buffer, uint8_t first, struct buffer *body);
void buffer_remove(struct buffer *buffer, size_t length); // from its beginning
void buffer_free(struct buffer *buffer);

// Of properties that were read: a number, or what stands for it when it is absent.
uint32_t property_number(struct bytes properties, enum property_id id, uint32_t absent);
struct bytes property_bytes(struct bytes properties, enum property_id id);
// What a publish passes on: all but the topic alias, and on demand without the user properties.
void put_passed_properties(struct buffer *buffer, struct bytes properties, bool with_user);
char *user_properties_text(struct bytes properties);

char *bytes_text(struct bytes bytes); // on the heap, with a NUL; NULL for absent ones
bool topic_is_valid(struct bytes topic);
bool filter_is_valid(struct bytes filter);
bool topic_matches(const char *filter, const char *topic);
