// A protocol of our own invention, to copy when adding a real one. It is compiled and goes through every test
// that the real ones go through, but cannot be chosen in a configuration.
//
// A codec's file begins like this: what the protocol is, where that is known from, and what is assumed.
//
//   0    1  7E
//   1    1  length of the body, 12 to 64
//   2    8  ident, ASCII digits
//   10   4  time, Unix seconds; 0: the clock is not set
//   14      values: id 1, value 2, repeated: 1 battery in 0.01 V, 2 speed in 0.1 km/h, 3 temperature in
//   celsius, signed end  1  sum of all bytes before it, modulo 256
//
// The answer to each frame is 7E 00 and the sum byte of the frame, when its message is safe. The one command
// is "custom" {payload}: 7E, length of the text, the text.
//
// Ten steps from here to a protocol:
//   1. copy this file to PROTOCOL.c and write its name into codec_names in meson.build;
//   2. write down the layout above, with its source;
//   3. frame(): only find where a frame ends; look at no more bytes than were given;
//   4. put the layout into const tables: id, width, scale, field;
//   5. decode() in this order: length, magic, checksum, parse, sanity, put out;
//   6. fields that are new get a row in schema/fields.json;
//   7. commands get a schema in schema/commands/PROTOCOL.json, and encode() writes them;
//   8. one vector file a case in tests/vectors/PROTOCOL/, with where it comes from;
//   9. `trackbus decode -p PROTOCOL --hex` shows what comes out;
//  10. tests/run.
#include <string.h>

#include "codecs/codec.h"
#include "codecs/reader.h"

#define MARK        0x7E
#define IDENT_SIZE  8
#define HEAD_SIZE   2 // mark and length
#define BODY_MIN    12
#define BODY_MAX    64
#define PAYLOAD_MAX 255

struct template_session {
    char ident[IDENT_SIZE + 1];
};

static const struct row {
    uint8_t id;
    bool is_signed;
    unsigned scale; // decimal places
    enum field field;
} rows[] = {
    {1, false, 2, FIELD_BATTERY_VOLTAGE},
    {2, false, 1, FIELD_POSITION_SPEED},
    {3, true, 0, FIELD_CAN_ENGINE_TEMPERATURE},
};

static struct codec_frame template_frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    size_t junk = 0;
    while (junk < length && bytes[junk] != MARK)
        junk++;
    if (junk > 0)
        return (struct codec_frame){
            .kind = CODEC_SKIP, .length = junk, .reason = "no 7E where a frame begins"};
    if (length < HEAD_SIZE)
        return (struct codec_frame){.kind = CODEC_MORE};
    if (bytes[1] < BODY_MIN || bytes[1] > BODY_MAX)
        return (struct codec_frame){.kind = CODEC_SKIP, .length = 1, .reason = "a length that no frame has"};
    size_t whole = HEAD_SIZE + bytes[1] + 1U;
    return (struct codec_frame){.kind = length < whole ? CODEC_MORE : CODEC_READY, .length = whole};
}

static uint8_t sum_of(const uint8_t *bytes, size_t length) {
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum;
}

static void set_value(struct message *message, struct reader *body) {
    static const char digits[] = "0123456789";
    uint8_t id = (uint8_t)reader_unsigned(body, 1);
    struct reader part = reader_part(body, 2);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].id != id)
            continue;
        int64_t raw = rows[i].is_signed ? reader_signed(&part, 2) : (int64_t)reader_unsigned(&part, 2);
        struct decimal value = decimal_integer(raw);
        decimal_scale(&value, rows[i].scale);
        message_set_number(message, rows[i].field, value);
        return;
    }
    // Nothing that a device says is dropped in silence.
    char index[4] = {digits[id / 100], digits[id / 10 % 10], digits[id % 10], '\0'};
    message_set_number_at(message, FIELD_CUSTOM_ATTRIBUTE, index,
                          decimal_integer((int64_t)reader_unsigned(&part, 2)));
}

static enum codec_verdict template_decode(void *memory, const uint8_t *frame, size_t length,
                                          struct codec_out *out) {
    struct template_session *session = memory;
    struct message *message = out->scratch;
    uint8_t sum = frame[length - 1];
    if (sum_of(frame, length - 1) != sum)
        return codec_reject(out, CODEC_BAD_CHECKSUM, length - 1, "the sum is %02x, the frame says %02x",
                            sum_of(frame, length - 1), sum);
    struct reader body = reader_of(frame + HEAD_SIZE, length - HEAD_SIZE - 1);
    const uint8_t *ident = reader_bytes(&body, IDENT_SIZE);
    for (size_t i = 0; i < IDENT_SIZE; i++)
        if (ident[i] < '0' || ident[i] > '9')
            return codec_reject(out, CODEC_BAD_VALUE, HEAD_SIZE + i, "the ident is not 8 digits");
    uint64_t time = reader_unsigned(&body, 4);
    message_reset(message);
    message_set_text(message, FIELD_IDENT, (const char *)ident, IDENT_SIZE);
    if (time != 0)
        message_set_integer(message, FIELD_TIMESTAMP, (int64_t)time);
    while (reader_left(&body) >= 3)
        set_value(message, &body);
    if (reader_left(&body) != 0)
        return codec_reject(out, CODEC_SHORT, length - 1 - reader_left(&body),
                            "a value of less than 3 bytes");
    memcpy(session->ident, ident, IDENT_SIZE);
    session->ident[IDENT_SIZE] = '\0';
    out->identify(out->context, session->ident);
    out->message(out->context, message);
    out->reply(out->context, (const uint8_t[]){MARK, 0, sum}, 3, CODEC_WHEN_SAFE);
    return CODEC_OK;
}

static enum codec_verdict template_encode(void *session, const struct codec_command *command,
                                          struct codec_writer *writer, struct codec_expectation *expectation,
                                          char reason[CODEC_REASON_MAX]) {
    const char *payload = properties_text(&command->properties, "payload", "");
    size_t length = strlen(payload);
    if (strcmp(command->name, "custom") != 0 || length == 0 || length > PAYLOAD_MAX) {
        strcpy(reason, "the one command is custom, with a payload of 1 to 255 bytes");
        return CODEC_UNSUPPORTED;
    }
    codec_write(writer, (const uint8_t[]){MARK, (uint8_t)length}, HEAD_SIZE);
    codec_write(writer, payload, length);
    *expectation = (struct codec_expectation){0};
    return CODEC_OK;
}

extern const struct codec codec_template;
const struct codec codec_template = {
    .name = "template",
    .id = 65535,
    .title = "An example for those who add a protocol",
    .session_size = sizeof(struct template_session),
    .frame_max = HEAD_SIZE + BODY_MAX + 1,
    .junk_max = 256,
    .one_at_a_time = true,
    .frame = template_frame,
    .decode = template_decode,
    .encode = template_encode,
};
