// A protocol of our own invention, to copy when adding a real one. It is compiled and goes through every test
// that the real ones go through, but cannot be chosen in a configuration. README.md has the steps from here to
// a protocol.
//
// A codec's file begins like this: what the protocol is, where that is known from, and what is assumed.
//
//   0    1  7E
//   1    1  length of the body: 8 is a login, 12 to 64 a report
//   2       the body
//   end  1  sum of all bytes before it, modulo 256
//
//   login   0   8  ident, ASCII digits
//
//   report  0   8  ident, ASCII digits
//           8   4  time, Unix seconds; 0: the clock is not set
//           12     values: id 1, value 2, repeated:
//                    1  battery, 0.01 V
//                    2  speed, 0.1 km/h
//                    3  temperature, degrees Celsius, signed
//                    4  alarm button: 1 was pressed
//
// Answers, where SUM is the sum in the frame that they answer:
//
//   7E 00 SUM  report taken, once its message is safe
//   7E 01 SUM  report not taken, do not send it again
//   7E 02 SUM  this device may not connect
//   7E 03 and the time, Unix seconds in 4 bytes (0: unknown): logged in; then the option "greeting", if the
//              channel has one, as if it were the command "custom"
//
// Devices of the first generation do not log in and know the first answer alone.
//
// Commands: "custom" {payload} is 7E, length of the text, the text; "clock" is 7F and the time in 4 bytes.
#include <string.h>

#include "codecs/checksum.h"
#include "codecs/codec.h"
#include "codecs/layout.h"
#include "codecs/reader.h"
#include "codecs/values.h"

#define MARK        0x7E
#define CLOCK_MARK  0x7F
#define IDENT_SIZE  8
#define TIME_SIZE   4
#define VALUE_SIZE  2
#define HEAD_SIZE   2 // mark and length
#define SUM_SIZE    1
#define BODY_LOGIN  IDENT_SIZE
#define BODY_MIN    (IDENT_SIZE + TIME_SIZE)
#define BODY_MAX    64
#define PAYLOAD_MAX 255

enum reply { TAKEN, NOT_TAKEN, REFUSED, LOGGED_IN };

// Of one device, as every frame says whose it is.
struct template_session {
    bool logged_in;
};

enum kind { ALARM = LAYOUT_OWN };

static const struct layout_item values[] = {
    {LAYOUT_NUMBER, FIELD_BATTERY_VOLTAGE, .id = 1, .scale = 2},
    {LAYOUT_NUMBER, FIELD_POSITION_SPEED, .id = 2, .scale = 1},
    {LAYOUT_SIGNED, FIELD_CAN_ENGINE_TEMPERATURE, .id = 3},
    {ALARM, FIELD_ALARM_EVENT, .id = 4},
    {LAYOUT_END},
};

static const enum field alarms[] = {FIELD_ALARM_EVENT, FIELD_NONE};

enum option { GREETING };

static const char *const options[] = {[GREETING] = "greeting", NULL};

// --- framing ---

static bool is_length(uint8_t length) {
    return length == BODY_LOGIN || (length >= BODY_MIN && length <= BODY_MAX);
}

static struct codec_frame template_frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    size_t junk = 0;
    while (junk < length && bytes[junk] != MARK)
        junk++;
    if (junk > 0)
        return (struct codec_frame){
            .kind = CODEC_SKIP, .length = junk, .reason = "no 7E where a frame begins"};
    if (length < HEAD_SIZE)
        return (struct codec_frame){.kind = CODEC_MORE};
    if (!is_length(bytes[1]))
        return (struct codec_frame){.kind = CODEC_SKIP, .length = 1, .reason = "a length that no frame has"};
    size_t whole = HEAD_SIZE + bytes[1] + (size_t)SUM_SIZE;
    return (struct codec_frame){.kind = length < whole ? CODEC_MORE : CODEC_READY, .length = whole};
}

static bool template_seal(uint8_t *frame, size_t length) {
    frame[length - 1] = checksum_sum8(frame, length - 1);
    return true;
}

// --- decoding ---

static size_t count_digits(const uint8_t ident[IDENT_SIZE]) {
    size_t count = 0;
    while (count < IDENT_SIZE && ident[count] >= '0' && ident[count] <= '9')
        count++;
    return count;
}

static bool template_sender(const uint8_t *frame, size_t length, char ident[CODEC_IDENT_MAX + 1]) {
    memcpy(ident, frame + HEAD_SIZE, IDENT_SIZE);
    ident[IDENT_SIZE] = '\0';
    return count_digits(frame + HEAD_SIZE) == IDENT_SIZE;
}

// A frame being decoded.
struct decoding {
    struct template_session *session;
    struct codec_out *out;
    uint8_t sum;
};

static void reply(const struct decoding *decoding, enum reply what, enum codec_reply_when when) {
    const uint8_t bytes[] = {MARK, (uint8_t)what, decoding->sum};
    decoding->out->reply(decoding->out->context, bytes, sizeof bytes, when);
}

// A device that repeats what is not answered must hear of a report that will never be taken.
static enum codec_verdict not_taken(const struct decoding *decoding, enum codec_verdict verdict) {
    if (decoding->session->logged_in)
        reply(decoding, NOT_TAKEN, CODEC_NOW);
    return verdict;
}

// Reads the ident and says whose frame it is. False, and *verdict set, when there is no more to do.
static bool identify(const struct decoding *decoding, struct reader *body, enum codec_verdict *verdict) {
    char ident[IDENT_SIZE + 1] = "";
    const uint8_t *bytes = reader_bytes(body, IDENT_SIZE);
    size_t digits = count_digits(bytes);
    memcpy(ident, bytes, IDENT_SIZE);
    if (digits < IDENT_SIZE) {
        *verdict =
            codec_reject(decoding->out, CODEC_BAD_VALUE, HEAD_SIZE + digits, "the ident is not 8 digits");
        return false;
    }
    *verdict = CODEC_OK;
    if (decoding->out->identify(decoding->out->context, ident) == CODEC_ACCEPTED)
        return true;
    reply(decoding, REFUSED, CODEC_NOW);
    return false;
}

static void write_time(uint8_t bytes[TIME_SIZE], int64_t now) {
    for (size_t i = 0; i < TIME_SIZE; i++)
        bytes[i] = (uint8_t)(now / 1000000 >> (8 * (TIME_SIZE - 1 - i)));
}

static void greet(const struct codec_out *out) {
    const char *text = codec_option(out->setting, GREETING);
    size_t length = text != NULL ? strlen(text) : 0;
    uint8_t bytes[HEAD_SIZE + PAYLOAD_MAX] = {MARK, (uint8_t)length};
    if (length == 0 || length > PAYLOAD_MAX)
        return;
    memcpy(bytes + HEAD_SIZE, text, length);
    out->reply(out->context, bytes, HEAD_SIZE + length, CODEC_NOW);
}

static enum codec_verdict take_login(const struct decoding *decoding, struct reader *body) {
    uint8_t bytes[HEAD_SIZE + TIME_SIZE] = {MARK, LOGGED_IN};
    enum codec_verdict verdict;
    if (!identify(decoding, body, &verdict))
        return verdict;
    decoding->session->logged_in = true;
    write_time(bytes + HEAD_SIZE, decoding->out->setting->now);
    decoding->out->reply(decoding->out->context, bytes, sizeof bytes, CODEC_NOW);
    greet(decoding->out);
    return CODEC_OK;
}

// The codec's own kinds of items.
static void take_item(struct layout_walk *walk, const struct layout_item *item,
                      const struct layout_value *value) {
    if (value->number == 1) // an alarm is set only by reports that raise it
        message_set_boolean(walk->message, item->field, true);
}

// Nothing that a device says is dropped silently.
static void keep_unknown(const struct codec_out *out, unsigned id, struct reader value) {
    static const char digits[] = "0123456789";
    const char index[] = {digits[id / 100], digits[id / 10 % 10], digits[id % 10], '\0'};
    char hex[2 * VALUE_SIZE + 1];
    message_set_text_at(out->scratch, FIELD_CUSTOM_ATTRIBUTE, index, hex,
                        value_hex(value.next, VALUE_SIZE, hex));
    if (out->explanation != NULL)
        explain_add(out->explanation, &(struct explain_piece){.bytes = value.next,
                                                              .length = VALUE_SIZE,
                                                              .field = FIELD_CUSTOM_ATTRIBUTE,
                                                              .index = index});
}

// What stands around the values, for an explanation.
static void explain(const struct codec_out *out, const uint8_t *bytes, size_t length, const char *name,
                    enum field field) {
    if (out->explanation != NULL)
        explain_add(out->explanation,
                    &(struct explain_piece){.bytes = bytes, .length = length, .name = name, .field = field});
}

static void explain_frame(const struct codec_out *out, const uint8_t *frame, size_t length) {
    explain_table(out->explanation, false, "frame");
    explain(out, frame, 1, "mark 7E", FIELD_NONE);
    explain(out, frame + 1, 1, "length", FIELD_NONE);
    explain(out, frame + HEAD_SIZE, IDENT_SIZE, NULL, FIELD_IDENT);
    explain(out, frame + length - SUM_SIZE, SUM_SIZE, "sum", FIELD_NONE);
}

static void take_values(const struct codec_out *out, struct reader *body) {
    struct message *message = out->scratch;
    struct layout_walk walk = {
        .message = message, .bytes = body, .take = take_item, .explanation = out->explanation};
    explain_table(out->explanation, false, "values");
    while (reader_left(body) >= 1 + VALUE_SIZE) {
        unsigned id = (unsigned)reader_unsigned(body, 1);
        struct reader value = reader_part(body, VALUE_SIZE);
        explain(out, value.next - 1, 1, "id", FIELD_NONE);
        const struct layout_item *item = layout_find(values, id);
        if (item != NULL)
            layout_take_value(&walk, item, value);
        else
            keep_unknown(out, id, value);
    }
}

static enum codec_verdict take_report(const struct decoding *decoding, struct reader *body, size_t end) {
    struct message *message = decoding->out->scratch;
    enum codec_verdict verdict;
    struct reader rest = reader_of(body->next + IDENT_SIZE, reader_left(body) - IDENT_SIZE);
    int64_t time = (int64_t)reader_unsigned(&rest, TIME_SIZE);
    message_reset(message);
    if (time != 0)
        message_set_integer(message, FIELD_TIMESTAMP, time);
    explain(decoding->out, rest.next - TIME_SIZE, TIME_SIZE, "time", FIELD_TIMESTAMP);
    take_values(decoding->out, &rest);
    if (reader_left(&rest) != 0)
        return not_taken(decoding, codec_reject(decoding->out, CODEC_SHORT, end - reader_left(&rest),
                                                "a value of less than 3 bytes"));
    if (!identify(decoding, body, &verdict))
        return verdict == CODEC_OK ? verdict : not_taken(decoding, verdict);
    decoding->out->message(decoding->out->context, message);
    reply(decoding, TAKEN, CODEC_WHEN_SAFE);
    if (decoding->session->logged_in)
        reply(decoding, NOT_TAKEN, CODEC_WHEN_REFUSED);
    return CODEC_OK;
}

// In this order: length (frame() has seen to it), checksum, parse, check, put out.
static enum codec_verdict template_decode(void *session, const uint8_t *frame, size_t length,
                                          struct codec_out *out) {
    size_t end = length - SUM_SIZE;
    struct decoding decoding = {.session = session, .out = out, .sum = frame[end]};
    uint8_t sum = checksum_sum8(frame, end);
    if (sum != decoding.sum) // not answered: what the device repeats may arrive whole
        return codec_reject(out, CODEC_BAD_CHECKSUM, end, "the sum is %02x, the frame says %02x", sum,
                            decoding.sum);
    struct reader body = reader_of(frame + HEAD_SIZE, end - HEAD_SIZE);
    explain_frame(out, frame, length);
    if (reader_left(&body) == BODY_LOGIN)
        return take_login(&decoding, &body);
    return take_report(&decoding, &body, end);
}

// --- commands ---

static enum codec_verdict encode_custom(const struct codec_command *command, struct codec_writer *writer,
                                        char reason[CODEC_REASON_MAX]) {
    const char *payload = properties_text(&command->properties, "payload", "");
    size_t length = strlen(payload);
    if (length == 0 || length > PAYLOAD_MAX)
        return codec_refuse(reason, CODEC_BAD_VALUE, "the payload has %zu bytes, expected 1 to %d", length,
                            PAYLOAD_MAX);
    codec_write(writer, (const uint8_t[]){MARK, (uint8_t)length}, HEAD_SIZE);
    codec_write(writer, payload, length);
    return CODEC_OK;
}

static enum codec_verdict encode_clock(const struct codec_setting *setting, struct codec_writer *writer,
                                       char reason[CODEC_REASON_MAX]) {
    uint8_t bytes[1 + TIME_SIZE] = {CLOCK_MARK};
    if (setting->now == 0)
        return codec_refuse(reason, CODEC_UNSUPPORTED, "the time is not known");
    write_time(bytes + 1, setting->now);
    codec_write(writer, bytes, sizeof bytes);
    return CODEC_OK;
}

static enum codec_verdict template_encode(void *session, const struct codec_setting *setting,
                                          const struct codec_command *command, struct codec_writer *writer,
                                          struct codec_expectation *expectation,
                                          char reason[CODEC_REASON_MAX]) {
    *expectation = (struct codec_expectation){0};
    if (strcmp(command->name, "custom") == 0)
        return encode_custom(command, writer, reason);
    if (strcmp(command->name, "clock") == 0)
        return encode_clock(setting, writer, reason);
    return codec_refuse(reason, CODEC_UNSUPPORTED, "the commands are custom and clock");
}

extern const struct codec codec_template;
const struct codec codec_template = {
    .name = "template",
    .id = 65535,
    .title = "An example for those who add a protocol",
    .session_size = sizeof(struct template_session),
    .frame_max = HEAD_SIZE + BODY_MAX + SUM_SIZE,
    .junk_max = 256,
    .one_at_a_time = true,
    .alarms = alarms,
    .options = options,
    .frame = template_frame,
    .sender = template_sender,
    .decode = template_decode,
    .encode = template_encode,
    .seal = template_seal,
};
