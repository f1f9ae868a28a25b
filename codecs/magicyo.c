// Magicyo: vehicle terminals that speak binary frames. Magicyo is a brand of ZTEWelink (now GosuncnWelink).
//
// No public document gives the bytes of this generation. Each part below is marked:
//   list     the published list of parameters says it: which frame, record or attribute gives which field
//   public   stated or checkable in public material on two earlier generations of that vendor's protocol
//   assumed  decided here, the simplest reading that carries the listed fields
// What is assumed stands in tables, so that a capture or a document changes a row and not the code.
//
// Integers are big-endian, nothing is escaped, times are Unix seconds. There are two forms of a frame, told
// apart on one port; answers and commands go out in the form that the device spoke last.
//
//   V2 (public; without its encryption: assumed)       MK100 (public)
//   0     2   55 55                                    0     2   55 55
//   2     2   length of the frame, 30 to 1024          2     2   frame number
//   4     15  IMEI, ASCII digits                       4     15  IMEI
//   19    1   frame type                               19    1   frame type
//   20    2   frame id, repeated by the answer         20    2   length N of the data, at most 999 (assumed)
//   22    2   length N of the data                     22    N   data
//   24    N   data                                     22+N  1   checksum of unknown rule: not looked at, 00
//   24+N  4   Adler-32 of offset 2 to here             23+N  2   AA AA
//   28+N  0-7 padding FF (public; never sent)
//   end   2   AA AA
//
// An earlier generation of the vendor encrypts what stands behind the IMEI, with triple DES and a key for each
// device, in blocks of 8 bytes (public). Such frames are known by their shape and rejected with that reason:
//
//   0   2   55 55                              0   2   55 55
//   2   2   length of the frame                2   2   length of the frame
//   4   8   initialization vector              4   15  IMEI
//   12  15  IMEI                               19  8n  blocks: type, frame id, N, data, Adler-32, FF
//   27  8n  blocks                             end 2   AA AA
//   end 2   AA AA
//
// Frame types (public): 01 login, answered 02 with data 01; 03 data (type 1, subtype 1, body), answered 04
// with type and subtype; 0C heartbeat, answered 0D; 0E disconnect. 04 from the device answers a command. A
// frame type that is not known is published with its data and not answered.
//
// Login (public): the layout `login` below; the length of a text is the low 6 bits of its byte; a version
// word is three numbers of 4, 6 and 6 bits. The bootloader's text is assumed; it is there when more than the
// time is left. An MK100 login has another body, which becomes custom.payload.
//
// Records, the bodies of data frames: the layouts `records` below. 01/01, 01/02, 02/01, 02/02 and 04/00 are
// public, the others assumed; which fields they give is listed. Attributes (04/02 to 04/05) are `id 2, length
// 1, value`: the ids and fields are listed, the bytes and units assumed. Bytes that no field stands for
// become custom.payload, an attribute that is not known custom.attribute.<id> in hexadecimal digits, whatever
// its length: of a value of unknown sign and unit nothing else is certain.
//
// Every frame has the IMEI, so that a relay can mix those of several devices on one connection; answers and
// commands carry the IMEI of the device that they are for.
//
// A device repeats what is not answered (public): a frame whose id and type are among its last 64 on the
// connection is answered again and not published again. A login that is not the repeat of the last frame
// begins anew, because a device that restarts counts from the beginning. There is no answer that says no. So
// data is answered too when its record is broken: otherwise the device would send it for ever, and nothing
// behind it. A message that the broker refuses for good is not answered: nobody else has it.
//
// Commands (public but where marked): frame 03 with type F1 and subtype 02 (set: id 4, value), 03 (query: id
// 4) or 07 (calibrate). The answer is frame 04 with the same id, F1, the subtype and: for 02 `id 2, result
// 1`, for 03 `id 4, length 1, value` (assumed), for 07 nothing or `result 1` (assumed); result 0 is rejected,
// another accepted. An answer of another shape is passed on in hexadecimal digits.
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "codecs/checksum.h"
#include "codecs/codec.h"
#include "codecs/layout.h"
#include "codecs/reader.h"
#include "codecs/values.h"

#define IMEI_DIGITS    15
#define IMEI_OFFSET    4
#define HEAD_SIZE      24 // as much as tells how long a frame is; every frame is longer
#define MARK           0x55
#define END_MARK       0xAA
#define END_SIZE       2
#define PADDING        0xFF
#define FRAME_MAX      1024
#define V2_OVERHEAD    30 // a V2 frame without data and padding
#define V2_PADDING_MAX 7
#define LENGTH_OFFSET  2
#define TYPE_OFFSET    19
#define V2_ID          20
#define V2_COUNT       22
#define V2_DATA        24
#define SUM_SIZE       4
#define MK_OVERHEAD    25
#define MK_ID          2
#define MK_COUNT       20
#define MK_DATA        22
#define SEEN_MAX       64

// Encrypted frames: what stands around the blocks, with and without an initialization vector.
#define BLOCK_SIZE         8
#define VECTOR_OVERHEAD    29
#define VECTOR_IMEI        12
#define VECTOR_HEAD        (VECTOR_IMEI + IMEI_DIGITS)
#define ENCRYPTED_OVERHEAD 21
#define ENCRYPTED_BLOCKS   19 // offset of the first

enum form { V2, MK100, WITH_VECTOR }; // V2 for a device that has not said anything yet

enum frame_type {
    LOGIN = 0x01,
    LOGIN_REPLY = 0x02,
    DATA = 0x03,
    DATA_REPLY = 0x04,
    HEARTBEAT = 0x0C,
    HEARTBEAT_REPLY = 0x0D,
    DISCONNECT = 0x0E,
};

#define DATA_TYPE_COMMAND 0xF1

enum command_type { SET_PARAMETERS = 0x02, GET_PARAMETERS = 0x03, CALIBRATE = 0x07 };

struct magicyo_session {
    uint8_t form; // enum form, of the last frame
    uint8_t seen_count;
    uint8_t seen_next;     // where the next one is noted
    uint16_t last_command; // frame id
    uint16_t seen_id[SEEN_MAX];
    uint8_t seen_type[SEEN_MAX];
};

static_assert(sizeof(struct magicyo_session) < 256, "there is one for each device");

// --- layouts ---

enum kind {
    TIME = LAYOUT_OWN,
    PHRASE,           // a number that has a name
    VERSION,          // 4, 6 and 6 bits
    TEXT,             // behind its length
    TEXT_BEFORE_TIME, // there when more is left than a time
    POSITION,         // a GPS block; what follows stands in it
    CELL,             // the items of cell_items
    CELL_FIX,
    WEST,
    NORTH,
    ALTITUDE,
    LONGITUDE,
    LATITUDE,
};

#define PHRASES_MAX 6

struct phrases {
    enum field number; // takes the number itself; FIELD_NONE: none does
    const char *names[PHRASES_MAX];
};

static const struct phrases wakeup_triggers = {
    FIELD_NONE, {"unknown", "vibration", "timer", "network", "ignition", "external power"}}; // assumed
static const struct phrases power_on_reasons = {
    FIELD_POWER_ON_REASON_ENUM, {"unknown", "power connected", "reset", "watchdog", "upgrade"}}; // assumed
static const struct phrases network_types = {FIELD_NONE,
                                             {NULL, "GSM", "WCDMA", "LTE", "NB-IoT", "5G"}}; // assumed

// What follows the items of a record.
enum tail { NOTHING, ATTRIBUTES, CAN_FRAMES, POSITIONS };

#define ITEMS_MAX 8

struct record {
    uint8_t type, subtype;
    enum tail tail;
    bool assumed;
    struct layout_item items[ITEMS_MAX]; // up to LAYOUT_END, which zeros are
};

#define KNOWN   false
#define ASSUMED true

// clang-format off
#define EVENT_TIME  {TIME, FIELD_EVENT_TIMESTAMP, .bits = 32}
#define REPORT_TIME {TIME, FIELD_TIMESTAMP, .bits = 32}
#define GPS         {POSITION, .name = "GPS block"}
#define BATTERY     {LAYOUT_NUMBER, FIELD_BATTERY_VOLTAGE, .bits = 8, .scale = 1}
#define BYTE(field) {LAYOUT_NUMBER, field, .bits = 8}
#define WORD(field) {LAYOUT_NUMBER, field, .bits = 16}
#define LONG(field) {LAYOUT_NUMBER, field, .bits = 32}
#define NAMED(field, phrases) {PHRASE, field, .bits = 8, .more = &phrases, .assumed = true}

static const struct layout_item login[] = {
    {VERSION, FIELD_PROTOCOL_VERSION, .bits = 16},
    {VERSION, FIELD_ECU_HARDWARE_VERSION, .bits = 16},
    {TEXT, FIELD_SOFTWARE_VERSION, .name = "empty text"},
    {TEXT, FIELD_MODEM_HARDWARE_VERSION, .name = "empty text"},
    {TEXT_BEFORE_TIME, FIELD_BOOTLOADER_VERSION, .name = "empty text", .assumed = true},
    REPORT_TIME,
    {LAYOUT_END},
};

static const struct record records[] = {
    // ignition on and off: public
    {0x01, 0x01, NOTHING, KNOWN,
     {BYTE(FIELD_IGNITION_STATE), EVENT_TIME, GPS, {LAYOUT_TRUE, FIELD_ENGINE_IGNITION_STATUS}}},
    {0x01, 0x02, NOTHING, KNOWN,
     {BYTE(FIELD_IGNITION_STATE), EVENT_TIME, GPS, {LAYOUT_FALSE, FIELD_ENGINE_IGNITION_STATUS}}},
    // sleep: assumed, above all where the mode stands
    {0x02, 0x00, NOTHING, ASSUMED, {EVENT_TIME, BATTERY, BYTE(FIELD_SLEEP_MODE), GPS}},
    // wake up: public
    {0x02, 0x01, NOTHING, KNOWN,
     {EVENT_TIME, BATTERY, BYTE(FIELD_DEVICE_WAKEUP_SOURCE), NAMED(FIELD_WAKEUP_TRIGGER, wakeup_triggers),
      GPS}},
    // power on: public; the time of the last power off has no listed field
    {0x02, 0x02, NOTHING, KNOWN,
     {REPORT_TIME, {TIME, FIELD_CUSTOM_POWER_OFF_TIMESTAMP, .bits = 32},
      NAMED(FIELD_POWER_ON_REASON, power_on_reasons)}},
    // what follows the time is not known
    {0x02, 0x03, NOTHING, ASSUMED, {EVENT_TIME}},
    // calibration of the accelerometer: assumed
    {0x02, 0x07, NOTHING, ASSUMED, {EVENT_TIME, BYTE(FIELD_ACCELEROMETER_CALIBRATION_STATE)}},
    // positions: public
    {0x04, 0x00, POSITIONS, KNOWN, {{LAYOUT_END}}},
    // network: assumed
    {0x04, 0x01, NOTHING, ASSUMED,
     {REPORT_TIME, {CELL, FIELD_GSM_CELLID}, NAMED(FIELD_GSM_NETWORK_TYPE, network_types), BYTE(FIELD_GSM_SIGNAL_LEVEL)}},
    // attributes: assumed
    {0x04, 0x02, ATTRIBUTES, ASSUMED, {{LAYOUT_END}}},
    {0x04, 0x03, ATTRIBUTES, ASSUMED, {{LAYOUT_END}}},
    {0x04, 0x04, ATTRIBUTES, ASSUMED, {{LAYOUT_END}}},
    {0x04, 0x05, ATTRIBUTES, ASSUMED, {{LAYOUT_END}}},
    // frames of the CAN bus: assumed
    {0x04, 0x0D, CAN_FRAMES, ASSUMED, {REPORT_TIME}},
    // state of the hardware: assumed
    {0x04, 0x0F, NOTHING, ASSUMED, {REPORT_TIME, LONG(FIELD_DEVICE_HARDWARE_STATE_FLAG)}},
};

#define CELL_SIZE 10

static const struct layout_item cell_items[] = {
    WORD(FIELD_GSM_MCC), WORD(FIELD_GSM_MNC), WORD(FIELD_GSM_LAC), LONG(FIELD_GSM_CELLID), {LAYOUT_END},
};
// clang-format on

// The types of data that the list names, and how.
static const struct type_name {
    uint8_t type;
    const char *name;
} type_names[] = {{0x01, "ignition"}, {0x02, "device"}, {0x04, "data"}};

// Ids and fields are listed, units and signs assumed.
static const struct layout_item attributes[] = {
    {TIME, FIELD_TIMESTAMP, .id = 0},
    {LAYOUT_NUMBER, FIELD_GSM_SIGNAL_LEVEL, .id = 6},
    {LAYOUT_NUMBER, FIELD_POSITION_SATELLITES, .id = 8},
    {LAYOUT_NUMBER, FIELD_BATTERY_VOLTAGE, .id = 102, .scale = 2},
    {LAYOUT_NUMBER, FIELD_EXTERNAL_POWERSOURCE_VOLTAGE, .id = 103, .scale = 2},
    {LAYOUT_NUMBER, FIELD_VEHICLE_MILEAGE, .id = 203, .scale = 1},
    {LAYOUT_NUMBER, FIELD_TIRE_PRESSURE, .id = 204, .scale = 2, .index = "1"},
    {LAYOUT_SIGNED, FIELD_TIRE_TEMPERATURE, .id = 205, .index = "1"},
    {LAYOUT_NUMBER, FIELD_TIRE_PRESSURE, .id = 206, .scale = 2, .index = "2"},
    {LAYOUT_SIGNED, FIELD_TIRE_TEMPERATURE, .id = 207, .index = "2"},
    {LAYOUT_NUMBER, FIELD_VEHICLE_SPEED, .id = 208},
    {LAYOUT_NUMBER, FIELD_CURRENT_TRIP_MILEAGE, .id = 209, .scale = 1},
    {LAYOUT_NUMBER, FIELD_TRIP_MILEAGE, .id = 210, .scale = 1},
    {LAYOUT_FLAG, FIELD_POSITION_VALID, .id = 301},
    {LAYOUT_FLAG, FIELD_BLUETOOTH_CONNECTED_STATUS, .id = 302},
    {LAYOUT_FLAG, FIELD_ENGINE_IGNITION_STATUS, .id = 306},
    {LAYOUT_FLAG, FIELD_IMMOBILIZER_SERVICE_STATUS, .id = 307},
    {LAYOUT_SIGNED, FIELD_CAN_ENGINE_TEMPERATURE, .id = 401},
    {LAYOUT_NUMBER, FIELD_CAN_THROTTLE_POSITION, .id = 403},
    {LAYOUT_NUMBER, FIELD_AVERAGE_FUEL_CONSUMPTION, .id = 407, .scale = 1},
    {LAYOUT_SIGNED, FIELD_CAN_GEAR, .id = 412},
    {LAYOUT_NUMBER, FIELD_ENGINE_RPM, .id = 413},
    {LAYOUT_END},
};

// The GPS block, bit by bit (public but for the accuracy and altitudes below zero). MK100 sends the first 16
// bytes only, which end behind the heading.
#define V2_BLOCK         24
#define MK_BLOCK         16
#define COORDINATE_SCALE 5
#define ALTITUDE_MAX     10000 // metres; above it: below zero

static const struct layout_item block_items[] = {
    {TIME, FIELD_TIMESTAMP, .bits = 32},
    {CELL_FIX, FIELD_CUSTOM_POSITION_SOURCE, .bits = 1,
     .name = "from a cell"}, // the list has no field for it
    {LAYOUT_FLAG, FIELD_MESSAGE_BUFFERED_STATUS, .bits = 1},
    {WEST, .bits = 1, .name = "longitude is west"},
    {NORTH, .bits = 1, .name = "latitude is north"},
    {LAYOUT_NUMBER, FIELD_POSITION_SATELLITES, .bits = 4},
    {ALTITUDE, FIELD_POSITION_ALTITUDE, .bits = 15},
    {LONGITUDE, FIELD_POSITION_LONGITUDE, .bits = 25, .scale = COORDINATE_SCALE},
    {LATITUDE, FIELD_POSITION_LATITUDE, .bits = 24, .scale = COORDINATE_SCALE},
    {LAYOUT_NUMBER, FIELD_POSITION_SPEED, .bits = 15, .scale = 1},
    {LAYOUT_NUMBER, FIELD_POSITION_DIRECTION, .bits = 9},
    {LAYOUT_NUMBER, FIELD_POSITION_PDOP, .bits = 12, .scale = 1},
    {LAYOUT_NUMBER, FIELD_POSITION_HDOP, .bits = 12, .scale = 1},
    {LAYOUT_NUMBER, FIELD_POSITION_VDOP, .bits = 12, .scale = 1},
    {LAYOUT_SKIP, .bits = 4, .name = "without meaning"},
    {LAYOUT_NUMBER, FIELD_POSITION_ACCURACY, .bits = 24, .assumed = true},
    {LAYOUT_END},
};

// --- framing ---

static unsigned word_at(const uint8_t *bytes) {
    return (unsigned)(bytes[0] << 8 | bytes[1]);
}

static bool is_imei(const uint8_t *bytes) {
    for (size_t i = 0; i < IMEI_DIGITS; i++)
        if (bytes[i] < '0' || bytes[i] > '9')
            return false;
    return true;
}

// Whether a V2 frame of that length has room for its data and no more padding than there may be.
static bool fits_v2(const uint8_t *head, size_t length) {
    size_t least = V2_OVERHEAD + word_at(head + V2_COUNT);
    return least <= length && length - least <= V2_PADDING_MAX;
}

// Whether a frame of that length is one of whole blocks.
static bool fits_blocks(size_t length, size_t overhead, size_t least) {
    return length >= overhead + least * BLOCK_SIZE && (length - overhead) % BLOCK_SIZE == 0;
}

struct trial {
    enum form form;
    size_t length; // 0: it cannot be this form
};

// A frame whose IMEI stands behind an initialization vector; length is of the head, as much as is there.
static struct trial try_vector(const uint8_t *head, size_t length) {
    struct trial trial = {.form = WITH_VECTOR};
    size_t says = word_at(head + LENGTH_OFFSET);
    for (size_t at = VECTOR_IMEI; at < VECTOR_HEAD && at < length; at++)
        if (head[at] < '0' || head[at] > '9')
            return trial;
    if (says <= FRAME_MAX && fits_blocks(says, VECTOR_OVERHEAD, 3))
        trial.length = says;
    return trial;
}

// How long the frame would be in either form, in the order in which the marks at their ends decide. What fits
// V2 in all its lengths is V2: MK100 would get there once in millions of frames. Where the lengths of V2 do
// not agree, the shorter comes first, so that neither waits for bytes that only the other would have.
static void list_trials(const uint8_t *head, struct trial trials[2]) {
    size_t v2 = word_at(head + LENGTH_OFFSET), mk = MK_OVERHEAD + word_at(head + MK_COUNT);
    bool imei = is_imei(head + IMEI_OFFSET);
    bool fits = v2 >= V2_OVERHEAD && v2 <= FRAME_MAX && fits_v2(head, v2);
    if (v2 < V2_OVERHEAD || v2 > FRAME_MAX || (!fits && !imei))
        v2 = 0;
    // A V2 frame with a broken length whose frame id happens to lead to its end is no MK100 frame.
    if (mk > FRAME_MAX || !imei || fits_v2(head, mk))
        mk = 0;
    bool mk_first = mk > 0 && !fits && (v2 == 0 || mk < v2);
    trials[mk_first ? 1 : 0] = (struct trial){.form = V2, .length = v2};
    trials[mk_first ? 0 : 1] = (struct trial){.form = MK100, .length = mk};
}

enum finding { NO_FRAME, BEGINS_FRAME, WHOLE_FRAME };

// What bytes begin with; *found is set when that is a frame. Looks at a few bytes only, however many there
// are.
static enum finding find_frame(const uint8_t *bytes, size_t length, bool ended, struct trial *found) {
    struct trial trials[3];
    if (bytes[0] != MARK || (length > 1 && bytes[1] != MARK))
        return NO_FRAME;
    if (length < HEAD_SIZE)
        return ended ? NO_FRAME : BEGINS_FRAME;
    list_trials(bytes, trials);
    trials[2] = try_vector(bytes, length);
    for (size_t i = 0; i < 3; i++) {
        size_t end = trials[i].length;
        if (end > length && !ended)
            return BEGINS_FRAME;
        if (end == 0 || end > length || bytes[end - 2] != END_MARK || bytes[end - 1] != END_MARK)
            continue;
        *found = trials[i];
        return WHOLE_FRAME;
    }
    return NO_FRAME;
}

static struct codec_frame magicyo_frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    struct trial found;
    bool ended = follow == CODEC_END;
    switch (find_frame(bytes, length, ended, &found)) {
    case WHOLE_FRAME:
        return (struct codec_frame){.kind = CODEC_READY, .length = found.length};
    case BEGINS_FRAME:
        return (struct codec_frame){.kind = CODEC_MORE};
    case NO_FRAME:
        break;
    }
    size_t junk = 1;
    while (junk < length && find_frame(bytes + junk, length - junk, ended, &found) == NO_FRAME)
        junk++;
    bool marked = length > 1 && bytes[0] == MARK && bytes[1] == MARK;
    return (struct codec_frame){.kind = CODEC_SKIP,
                                .length = junk,
                                .reason = marked ? "55 55 without a frame that ends in AA AA"
                                                 : "no 55 55 where a frame begins"};
}

// --- frames ---

struct frame {
    const uint8_t *bytes;
    enum form form;
    uint8_t type;
    uint16_t id;
    const char *ident; // IMEI_DIGITS of them
    const uint8_t *data;
    size_t length; // of the data
};

// A frame being decoded.
struct decoding {
    struct magicyo_session *session;
    struct frame frame;
    struct codec_out *out;
    bool identified; // the device has been named
    bool published;  // something of it
    bool refused;    // the device may not talk to this gateway
};

static void write_sum(uint8_t *frame, size_t end) {
    uint32_t sum = checksum_adler32(frame + 2, end - 2);
    for (size_t i = 0; i < 4; i++)
        frame[end + i] = (uint8_t)(sum >> (24 - 8 * i));
}

// MK100 frames have a checksum of unknown rule.
static bool magicyo_seal(uint8_t *frame, size_t length) {
    struct trial found = {0};
    if (find_frame(frame, length, true, &found) != WHOLE_FRAME || found.length != length ||
        found.form != V2 || !fits_v2(frame, length))
        return false;
    write_sum(frame, V2_DATA + word_at(frame + V2_COUNT));
    return true;
}

// Writes a frame around length bytes of data, at most FRAME_MAX - V2_OVERHEAD.
static void write_frame(const struct frame *frame, struct codec_writer *writer) {
    uint8_t bytes[FRAME_MAX] = {MARK, MARK};
    size_t data = frame->form == V2 ? V2_DATA : MK_DATA, end = data + frame->length;
    size_t total = frame->length + (frame->form == V2 ? V2_OVERHEAD : MK_OVERHEAD);
    const uint8_t length[2] = {(uint8_t)(frame->length >> 8), (uint8_t)frame->length};
    const uint8_t id[2] = {(uint8_t)(frame->id >> 8), (uint8_t)frame->id};
    memcpy(bytes + IMEI_OFFSET, frame->ident, IMEI_DIGITS);
    bytes[TYPE_OFFSET] = frame->type;
    memcpy(bytes + data - 2, length, 2);
    if (frame->length > 0)
        memcpy(bytes + data, frame->data, frame->length);
    if (frame->form == V2) {
        bytes[LENGTH_OFFSET] = (uint8_t)(total >> 8);
        bytes[LENGTH_OFFSET + 1] = (uint8_t)total;
        memcpy(bytes + V2_ID, id, 2);
        write_sum(bytes, end);
    } else {
        memcpy(bytes + MK_ID, id, 2);
    }
    memset(bytes + total - END_SIZE, END_MARK, END_SIZE);
    codec_write(writer, bytes, total);
}

// --- what stands around the data, for an explanation ---

enum from { FROM_BEGIN, FROM_END, FROM_DATA_END };

// Offsets count from the beginning, from the end backwards, or from the end of the data.
static const struct part {
    enum from from;
    uint8_t offset, size;
    enum field field;
    const char *name;
    bool assumed;
} v2_parts[] =
    {
        {FROM_BEGIN, 0, 2, FIELD_NONE, "mark 55 55", KNOWN},
        {FROM_BEGIN, LENGTH_OFFSET, 2, FIELD_NONE, "length of the frame", KNOWN},
        {FROM_BEGIN, IMEI_OFFSET, IMEI_DIGITS, FIELD_IDENT, NULL, KNOWN},
        {FROM_BEGIN, TYPE_OFFSET, 1, FIELD_NONE, "frame type", KNOWN},
        {FROM_BEGIN, V2_ID, 2, FIELD_MESSAGE_SEQNUM, "frame id", KNOWN},
        {FROM_BEGIN, V2_COUNT, 2, FIELD_NONE, "length of the data", KNOWN},
        {FROM_DATA_END, 0, SUM_SIZE, FIELD_NONE, "Adler-32", KNOWN},
        {FROM_END, END_SIZE, END_SIZE, FIELD_NONE, "mark AA AA", KNOWN},
        {0},
},
  mk100_parts[] =
      {
          {FROM_BEGIN, 0, 2, FIELD_NONE, "mark 55 55", KNOWN},
          {FROM_BEGIN, MK_ID, 2, FIELD_MESSAGE_SEQNUM, "frame id", KNOWN},
          {FROM_BEGIN, IMEI_OFFSET, IMEI_DIGITS, FIELD_IDENT, NULL, KNOWN},
          {FROM_BEGIN, TYPE_OFFSET, 1, FIELD_NONE, "frame type", KNOWN},
          {FROM_BEGIN, MK_COUNT, 2, FIELD_NONE, "length of the data", KNOWN},
          {FROM_DATA_END, 0, 1, FIELD_NONE, "checksum, not looked at", ASSUMED},
          {FROM_END, END_SIZE, END_SIZE, FIELD_NONE, "mark AA AA", KNOWN},
          {0},
},
  vector_parts[] = {
      {FROM_BEGIN, 0, 2, FIELD_NONE, "mark 55 55", KNOWN},
      {FROM_BEGIN, LENGTH_OFFSET, 2, FIELD_NONE, "length of the frame", KNOWN},
      {FROM_BEGIN, IMEI_OFFSET, VECTOR_IMEI - IMEI_OFFSET, FIELD_NONE, "initialization vector", KNOWN},
      {FROM_BEGIN, VECTOR_IMEI, IMEI_DIGITS, FIELD_IDENT, NULL, KNOWN},
      {FROM_END, END_SIZE, END_SIZE, FIELD_NONE, "mark AA AA", KNOWN},
      {0},
};

static size_t data_end(const uint8_t *frame, enum form form) {
    return form == V2 ? V2_DATA + word_at(frame + V2_COUNT) : MK_DATA + word_at(frame + MK_COUNT);
}

static size_t part_offset(const struct part *part, const uint8_t *frame, size_t length, enum form form) {
    return part->from == FROM_BEGIN ? part->offset
           : part->from == FROM_END ? length - part->offset
                                    : data_end(frame, form) + part->offset;
}

static void explain_padding(struct explanation *explanation, const uint8_t *frame, size_t length) {
    size_t at = data_end(frame, V2) + SUM_SIZE;
    explain_add(
        explanation,
        &(struct explain_piece){.bytes = frame + at, .length = length - END_SIZE - at, .name = "padding FF"});
}

static void explain_frame(struct explanation *explanation, const uint8_t *frame, size_t length,
                          enum form form) {
    static const char *const names[] = {"v2_parts", "mk100_parts", "vector_parts"};
    static const struct part *const tables[] = {v2_parts, mk100_parts, vector_parts};
    bool whole = form != V2 || fits_v2(frame, length);
    explain_table(explanation, false, "%s", names[form]);
    for (const struct part *part = tables[form]; part->size > 0; part++) {
        if (part->from == FROM_DATA_END && !whole)
            continue;
        struct explain_piece piece = {.bytes = frame + part_offset(part, frame, length, form),
                                      .length = part->size,
                                      .field = part->field,
                                      .name = part->name,
                                      .assumed = part->assumed};
        explain_add_row(explanation, &piece, (size_t)(part - tables[form]) + 1);
    }
    if (form == V2 && whole)
        explain_padding(explanation, frame, length);
}

// Of bytes of the data that no table of items describes.
static void explain_data(const struct codec_out *out, const uint8_t *bytes, size_t length, const char *name,
                         enum field field, const char *index) {
    if (out->explanation != NULL)
        explain_add(out->explanation,
                    &(struct explain_piece){
                        .bytes = bytes, .length = length, .name = name, .field = field, .index = index});
}

static enum codec_verdict reject_encrypted(struct codec_out *out, size_t offset) {
    return codec_reject(out, CODEC_UNSUPPORTED, offset,
                        "an encrypted frame, as an older generation of ZTEWelink terminals "
                        "sends them: it cannot be read");
}

static enum codec_verdict open_v2(const uint8_t *bytes, size_t length, struct frame *frame,
                                  struct codec_out *out) {
    if (!fits_v2(bytes, length) && fits_blocks(length, ENCRYPTED_OVERHEAD, 2))
        return reject_encrypted(out, ENCRYPTED_BLOCKS);
    if (!fits_v2(bytes, length))
        return codec_reject(out, CODEC_BAD_VALUE, V2_COUNT, "%u bytes of data in a frame of %zu",
                            word_at(bytes + V2_COUNT), length);
    frame->id = (uint16_t)word_at(bytes + V2_ID);
    frame->length = word_at(bytes + V2_COUNT);
    frame->data = bytes + V2_DATA;
    size_t end = V2_DATA + frame->length;
    struct reader reader = reader_of(bytes + end, SUM_SIZE);
    uint32_t says = (uint32_t)reader_unsigned(&reader, SUM_SIZE), is = checksum_adler32(bytes + 2, end - 2);
    if (says != is)
        return codec_reject(out, CODEC_BAD_CHECKSUM, end, "the Adler-32 is %08x, the frame says %08x",
                            (unsigned)is, (unsigned)says);
    for (size_t at = end + SUM_SIZE; at < length - END_SIZE; at++)
        if (bytes[at] != PADDING)
            return codec_reject(out, CODEC_BAD_VALUE, at, "padding that is not FF");
    return CODEC_OK;
}

static enum codec_verdict open_frame(const uint8_t *bytes, size_t length, struct decoding *decoding) {
    struct frame *frame = &decoding->frame;
    struct trial found = {0};
    if (length == 0 || find_frame(bytes, length, true, &found) != WHOLE_FRAME || found.length != length)
        return codec_reject(decoding->out, CODEC_BAD_VALUE, 0, "not a frame");
    *frame = (struct frame){.bytes = bytes, .form = found.form, .type = bytes[TYPE_OFFSET]};
    frame->ident = (const char *)bytes + IMEI_OFFSET;
    if (decoding->out->explanation != NULL)
        explain_frame(decoding->out->explanation, bytes, length, found.form);
    if (found.form == WITH_VECTOR)
        return reject_encrypted(decoding->out, VECTOR_HEAD);
    if (found.form == V2)
        return open_v2(bytes, length, frame, decoding->out);
    frame->id = (uint16_t)word_at(bytes + MK_ID);
    frame->length = word_at(bytes + MK_COUNT);
    frame->data = bytes + MK_DATA;
    return CODEC_OK;
}

static bool magicyo_sender(const uint8_t *bytes, size_t length, char ident[CODEC_IDENT_MAX + 1]) {
    if (length < HEAD_SIZE || !is_imei(bytes + IMEI_OFFSET))
        return false;
    memcpy(ident, bytes + IMEI_OFFSET, IMEI_DIGITS);
    ident[IMEI_DIGITS] = '\0';
    return true;
}

static enum codec_verdict check_sender(const struct decoding *decoding) {
    if (!is_imei((const uint8_t *)decoding->frame.ident))
        return codec_reject(decoding->out, CODEC_BAD_VALUE, IMEI_OFFSET, "the IMEI is not 15 digits");
    return CODEC_OK;
}

// Before anything else is put out. How to tell a device that it may not talk to this gateway is not known.
static void know_sender(struct decoding *decoding) {
    char ident[IMEI_DIGITS + 1] = "";
    if (decoding->identified)
        return;
    decoding->identified = true;
    decoding->session->form = (uint8_t)decoding->frame.form;
    memcpy(ident, decoding->frame.ident, IMEI_DIGITS);
    decoding->refused = decoding->out->identify(decoding->out->context, ident) == CODEC_REFUSED;
}

// --- retransmissions ---

static bool was_seen(const struct magicyo_session *session, const struct frame *frame) {
    for (size_t i = 0; i < session->seen_count; i++)
        if (session->seen_id[i] == frame->id && session->seen_type[i] == frame->type)
            return true;
    return false;
}

static bool was_last(const struct magicyo_session *session, const struct frame *frame) {
    size_t last = (session->seen_next + SEEN_MAX - 1U) % SEEN_MAX;
    return session->seen_count > 0 && session->seen_id[last] == frame->id &&
           session->seen_type[last] == frame->type;
}

static void note_seen(struct magicyo_session *session, const struct frame *frame) {
    session->seen_id[session->seen_next] = frame->id;
    session->seen_type[session->seen_next] = frame->type;
    session->seen_next = (uint8_t)((session->seen_next + 1) % SEEN_MAX);
    if (session->seen_count < SEEN_MAX)
        session->seen_count++;
}

// --- values ---

// 0 is no time. A time before 2015 means that the clock is not set.
static void set_time(struct message *message, enum field field, int64_t time, int64_t now) {
    char digits[DECIMAL_TEXT_MAX];
    struct decimal seconds = decimal_integer(time);
    struct span said = {.text = digits, .length = decimal_write(seconds, digits)};
    if (time == 0)
        message_note_removed(message, field, "", 0, message_absent);
    else
        layout_set_time(message, field, seconds, said, now);
}

static void set_phrase(struct message *message, const struct layout_item *item, int64_t number) {
    char text[24];
    const struct phrases *phrases = item->more;
    const char *name = number < PHRASES_MAX ? phrases->names[number] : NULL;
    if (name == NULL) {
        sprintf(text, "%lld", (long long)number);
        name = text;
    }
    message_set_text(message, item->field, name, strlen(name));
    if (phrases->number != FIELD_NONE)
        message_set_integer(message, phrases->number, number);
}

static void set_version(struct message *message, enum field field, int64_t word) {
    char text[24];
    int length =
        sprintf(text, "%d.%d.%d", (int)(word >> 12 & 0x0F), (int)(word >> 6 & 0x3F), (int)(word & 0x3F));
    message_set_text(message, field, text, (size_t)length);
}

static void set_text(struct message *message, enum field field, struct reader *body) {
    size_t length = (size_t)reader_unsigned(body, 1) & 0x3F;
    const uint8_t *text = reader_bytes(body, length);
    if (text != NULL && length > 0)
        message_set_text(message, field, (const char *)text, length);
}

// The bytes that no field stands for.
static void set_payload(const struct codec_out *out, const uint8_t *bytes, size_t length) {
    char hex[2 * FRAME_MAX + 1];
    if (length == 0)
        return;
    message_set_text(out->scratch, FIELD_CUSTOM_PAYLOAD, hex, value_hex(bytes, length, hex));
    explain_table(out->explanation, false, "no table");
    explain_data(out, bytes, length, NULL, FIELD_CUSTOM_PAYLOAD, NULL);
}

// --- the walk ---

// What the items of one record have to know of each other.
struct walk_state {
    enum form form;
    int64_t now; // as in struct codec_setting
    bool cell_fix, west, north;
    int64_t longitude;
};

static void take_item(struct layout_walk *walk, const struct layout_item *item,
                      const struct layout_value *value);

static bool set_coordinate(struct message *message, enum field field, int64_t value) {
    return message_set_number(message, field,
                              (struct decimal){.mantissa = value, .places = COORDINATE_SCALE});
}

// The position of exactly 0,0 is none.
static void set_coordinates(struct message *message, const struct walk_state *state, int64_t latitude) {
    if (state->longitude == 0 && latitude == 0) {
        message_note_removed(message, FIELD_POSITION_LATITUDE, "", 0, message_absent);
        message_note_removed(message, FIELD_POSITION_LONGITUDE, "", 0, message_absent);
        return;
    }
    bool north_south = set_coordinate(message, FIELD_POSITION_LATITUDE, state->north ? latitude : -latitude);
    bool east_west =
        set_coordinate(message, FIELD_POSITION_LONGITUDE, state->west ? -state->longitude : state->longitude);
    const char *source = state->cell_fix ? "cell" : "gnss";
    if (north_south && east_west)
        message_set_text(message, FIELD_CUSTOM_POSITION_SOURCE, source, strlen(source));
}

// Walks a table within a table; an explanation then goes on with the outer one.
static void take_inner(struct layout_walk *walk, const struct layout_item *items, const char *table) {
    char outer[EXPLAIN_ROW_MAX];
    struct explanation *explanation = walk->explanation;
    if (explanation == NULL) {
        layout_take_all(walk, items);
        return;
    }
    memcpy(outer, explanation->table, sizeof outer);
    explain_table(explanation, explanation->assumed, "%s", table);
    layout_take_all(walk, items);
    explain_table(explanation, explanation->assumed, "%s", outer);
}

static void set_block(struct message *message, enum form form, int64_t now, struct reader *body,
                      struct explanation *explanation) {
    struct reader block = reader_part(body, form == V2 ? V2_BLOCK : MK_BLOCK);
    struct walk_state state = {.form = form, .now = now};
    struct layout_walk walk = {.message = message,
                               .bytes = &block,
                               .may_end = true,
                               .take = take_item,
                               .context = &state,
                               .explanation = explanation};
    if (!body->fault)
        take_inner(&walk, block_items, "block_items");
}

// A cell of nothing but zeros stands where there is none.
static void set_cell(struct message *message, struct reader *body, struct explanation *explanation) {
    static const uint8_t none[CELL_SIZE];
    struct reader cell = reader_part(body, CELL_SIZE);
    struct layout_walk walk = {.message = message, .bytes = &cell, .explanation = explanation};
    if (body->fault)
        return;
    if (memcmp(cell.next, none, CELL_SIZE) == 0)
        message_note_removed(message, FIELD_GSM_CELLID, "", 0, message_absent);
    else
        take_inner(&walk, cell_items, "cell_items");
}

static void take_block_item(struct layout_walk *walk, const struct layout_item *item, int64_t value) {
    struct walk_state *state = walk->context;
    if (item->kind == CELL_FIX)
        state->cell_fix = value == 1;
    else if (item->kind == WEST)
        state->west = value == 1;
    else if (item->kind == NORTH)
        state->north = value == 1;
    else if (item->kind == LONGITUDE)
        state->longitude = value;
    else if (item->kind == LATITUDE)
        set_coordinates(walk->message, state, value);
    else // ALTITUDE
        message_set_integer(walk->message, item->field, value > ALTITUDE_MAX ? ALTITUDE_MAX - value : value);
}

static void take_item(struct layout_walk *walk, const struct layout_item *item,
                      const struct layout_value *value) {
    const struct walk_state *state = walk->context;
    switch (item->kind) {
    case TIME:
        set_time(walk->message, item->field, value->number, state->now);
        break;
    case PHRASE:
        set_phrase(walk->message, item, value->number);
        break;
    case VERSION:
        set_version(walk->message, item->field, value->number);
        break;
    case TEXT_BEFORE_TIME:
        if (reader_left(walk->bytes) > 4)
            set_text(walk->message, item->field, walk->bytes);
        break;
    case TEXT:
        set_text(walk->message, item->field, walk->bytes);
        break;
    case POSITION:
        set_block(walk->message, state->form, state->now, walk->bytes, walk->explanation);
        break;
    case CELL:
        set_cell(walk->message, walk->bytes, walk->explanation);
        break;
    default:
        take_block_item(walk, item, value->number);
    }
}

// SHORT when the body ends before the last item.
static enum codec_verdict set_items(const struct decoding *decoding, const struct layout_item *items,
                                    struct reader *body) {
    struct walk_state state = {.form = decoding->frame.form, .now = decoding->out->setting->now};
    struct layout_walk walk = {.message = decoding->out->scratch,
                               .bytes = body,
                               .take = take_item,
                               .context = &state,
                               .explanation = decoding->out->explanation};
    layout_take_all(&walk, items);
    if (!body->fault)
        return CODEC_OK;
    return codec_reject(decoding->out, CODEC_SHORT, (size_t)(body->next - decoding->frame.bytes),
                        "the data ends before the last field");
}

// --- attributes and CAN frames ---

static void set_unknown_attribute(struct message *message, unsigned id, const struct reader *value) {
    char index[8], hex[2 * UINT8_MAX + 1];
    size_t width = reader_left(value);
    sprintf(index, "%u", id);
    message_set_text_at(message, FIELD_CUSTOM_ATTRIBUTE, index, hex, value_hex(value->next, width, hex));
}

static void set_attribute(const struct decoding *decoding, const struct layout_item *item,
                          struct reader value) {
    struct message *message = decoding->out->scratch;
    struct walk_state state = {.now = decoding->out->setting->now};
    struct layout_walk walk = {
        .message = message, .take = take_item, .context = &state, .explanation = decoding->out->explanation};
    char hex[2 * UINT8_MAX + 1];
    size_t width = reader_left(&value);
    // Unsigned numbers above the signed ones are out of every range, as negative ones are.
    if (width == 1 || width == 2 || width == 4 || width == 8)
        layout_take_value(&walk, item, value);
    else
        message_note_removed(message, item->field, hex, value_hex(value.next, width, hex),
                             width > 0 ? "not of 1, 2, 4 or 8 bytes" : message_absent);
}

static void explain_attribute(const struct codec_out *out, const uint8_t *bytes, unsigned id,
                              const struct layout_item *item, const struct reader *value) {
    char index[EXPLAIN_INDEX_MAX];
    bool whole = reader_left(value) == 1 || reader_left(value) == 2 || reader_left(value) == 4 ||
                 reader_left(value) == 8;
    explain_data(out, bytes, 2, "id of an attribute", FIELD_NONE, NULL);
    explain_data(out, bytes + 2, 1, "its length", FIELD_NONE, NULL);
    sprintf(index, "%u", id);
    if (item == NULL)
        explain_data(out, value->next, reader_left(value), NULL, FIELD_CUSTOM_ATTRIBUTE, index);
    else if (!whole) // otherwise the walk says it
        explain_data(out, value->next, reader_left(value), NULL, item->field, item->index);
}

static enum codec_verdict read_attributes(const struct decoding *decoding, struct reader *body, bool *any) {
    explain_table(decoding->out->explanation, true, "attributes");
    while (reader_left(body) > 0) {
        size_t at = (size_t)(body->next - decoding->frame.bytes);
        unsigned id = (unsigned)reader_unsigned(body, 2);
        size_t length = (size_t)reader_unsigned(body, 1);
        struct reader value = reader_part(body, length);
        if (body->fault)
            return codec_reject(decoding->out, CODEC_SHORT, at, "an attribute runs past the end of the data");
        const struct layout_item *item = layout_find(attributes, id);
        if (decoding->out->explanation != NULL)
            explain_attribute(decoding->out, decoding->frame.bytes + at, id, item, &value);
        if (item != NULL)
            set_attribute(decoding, item, value);
        else
            set_unknown_attribute(decoding->out->scratch, id, &value);
        *any = true;
    }
    return CODEC_OK;
}

static enum codec_verdict read_can_frames(const struct decoding *decoding, struct reader *body, bool *any) {
    const struct codec_out *out = decoding->out;
    size_t count = (size_t)reader_unsigned(body, 1);
    if (!body->fault)
        explain_data(out, body->next - 1, 1, "how many CAN frames", FIELD_NONE, NULL);
    for (size_t i = 0; i < count; i++) {
        char index[16], hex[2 * UINT8_MAX + 1];
        size_t at = (size_t)(body->next - decoding->frame.bytes);
        unsigned id = (unsigned)reader_unsigned(body, 4);
        size_t length = (size_t)reader_unsigned(body, 1);
        const uint8_t *bytes = reader_bytes(body, length);
        if (bytes == NULL)
            return codec_reject(decoding->out, CODEC_SHORT, at, "CAN frame %zu of %zu is not all there",
                                i + 1, count);
        sprintf(index, "%X", id);
        explain_data(out, bytes - 5, 4, "id of a CAN frame", FIELD_NONE, NULL);
        explain_data(out, bytes - 1, 1, "its length", FIELD_NONE, NULL);
        explain_data(out, bytes, length, NULL, FIELD_CAN_DATA_FRAME, index);
        message_set_text_at(decoding->out->scratch, FIELD_CAN_DATA_FRAME, index, hex,
                            value_hex(bytes, length, hex));
        *any = true;
    }
    if (body->fault)
        return codec_reject(decoding->out, CODEC_SHORT, (size_t)(body->next - decoding->frame.bytes),
                            "no count of CAN frames");
    return CODEC_OK;
}

// --- what a device sends ---

static struct message *begin_message(const struct decoding *decoding) {
    struct message *message = decoding->out->scratch;
    message_reset(message);
    message_set_integer(message, FIELD_MESSAGE_SEQNUM, decoding->frame.id);
    return message;
}

static void publish(struct decoding *decoding) {
    know_sender(decoding);
    decoding->published = true;
    decoding->out->message(decoding->out->context, decoding->out->scratch);
}

// A frame that is no data.
static struct message *begin_frame_message(const struct decoding *decoding, const char *type) {
    struct message *message = begin_message(decoding);
    message_set_integer(message, FIELD_MESSAGE_TYPE_ENUM, decoding->frame.type);
    if (type != NULL)
        message_set_text(message, FIELD_MESSAGE_TYPE, type, strlen(type));
    return message;
}

static enum codec_verdict take_login(struct decoding *decoding) {
    begin_frame_message(decoding, "login");
    struct reader body = reader_of(decoding->frame.data, decoding->frame.length);
    if (decoding->frame.form == V2) {
        explain_table(decoding->out->explanation, false, "login");
        enum codec_verdict verdict = set_items(decoding, login, &body);
        if (verdict != CODEC_OK)
            return verdict;
    }
    set_payload(decoding->out, body.next, reader_left(&body));
    publish(decoding);
    return CODEC_OK;
}

static enum codec_verdict take_heartbeat(struct decoding *decoding) {
    begin_frame_message(decoding, "heartbeat");
    set_payload(decoding->out, decoding->frame.data, decoding->frame.length);
    publish(decoding);
    return CODEC_OK;
}

static enum codec_verdict take_unknown_frame(struct decoding *decoding) {
    begin_frame_message(decoding, NULL);
    set_payload(decoding->out, decoding->frame.data, decoding->frame.length);
    publish(decoding);
    return CODEC_OK;
}

static const char *name_of_type(uint8_t type) {
    for (size_t i = 0; i < sizeof type_names / sizeof type_names[0]; i++)
        if (type_names[i].type == type)
            return type_names[i].name;
    return NULL;
}

// A record. Of a type without a name the type and subtype are left to the payload.
static struct message *begin_record(const struct decoding *decoding) {
    struct message *message = begin_message(decoding);
    const char *name = name_of_type(decoding->frame.data[0]);
    if (name == NULL)
        return message;
    message_set_text(message, FIELD_MESSAGE_TYPE, name, strlen(name));
    message_set_integer(message, FIELD_EVENT_ENUM, decoding->frame.data[1]);
    return message;
}

static void publish_rest(struct decoding *decoding, const struct reader *body) {
    if (reader_left(body) == 0)
        return;
    begin_record(decoding);
    set_payload(decoding->out, body->next, reader_left(body));
    publish(decoding);
}

// Each block is a record of its own: those that are there are published, whatever the count promises.
static enum codec_verdict take_positions(struct decoding *decoding, struct reader *body) {
    size_t count = (size_t)reader_unsigned(body, 1);
    size_t size = decoding->frame.form == V2 ? V2_BLOCK : MK_BLOCK;
    if (body->fault)
        return codec_reject(decoding->out, CODEC_SHORT, (size_t)(body->next - decoding->frame.bytes),
                            "no count of positions");
    explain_data(decoding->out, body->next - 1, 1, "how many positions", FIELD_NONE, NULL);
    for (size_t i = 0; i < count; i++) {
        if (reader_left(body) < size)
            return codec_reject(decoding->out, CODEC_SHORT, (size_t)(body->next - decoding->frame.bytes),
                                "position %zu of %zu is not all there", i + 1, count);
        set_block(begin_record(decoding), decoding->frame.form, decoding->out->setting->now, body,
                  decoding->out->explanation);
        publish(decoding);
    }
    publish_rest(decoding, body);
    return CODEC_OK;
}

static enum codec_verdict take_record(struct decoding *decoding, const struct record *record,
                                      struct reader *body) {
    bool any = false; // of what the tail holds
    begin_record(decoding);
    enum codec_verdict verdict = set_items(decoding, record->items, body);
    if (verdict != CODEC_OK)
        return verdict;
    if (record->tail == ATTRIBUTES)
        verdict = read_attributes(decoding, body, &any);
    else if (record->tail == CAN_FRAMES)
        verdict = read_can_frames(decoding, body, &any);
    if (verdict != CODEC_OK && !any)
        return verdict;
    set_payload(decoding->out, body->next, reader_left(body));
    publish(decoding);
    return verdict;
}

static void explain_record(const struct decoding *decoding, const struct record *record) {
    const uint8_t *data = decoding->frame.data;
    explain_table(decoding->out->explanation, false, "records %02X/%02X", record->type, record->subtype);
    explain_data(decoding->out, data, 1, "type of the record", FIELD_MESSAGE_TYPE, NULL);
    explain_data(decoding->out, data + 1, 1, "its subtype", FIELD_EVENT_ENUM, NULL);
    explain_table(decoding->out->explanation, record->assumed, "records %02X/%02X", record->type,
                  record->subtype);
}

static enum codec_verdict take_data(struct decoding *decoding) {
    struct reader body = reader_of(decoding->frame.data, decoding->frame.length);
    uint8_t type = (uint8_t)reader_unsigned(&body, 1), subtype = (uint8_t)reader_unsigned(&body, 1);
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        if (records[i].type != type || records[i].subtype != subtype)
            continue;
        explain_record(decoding, &records[i]);
        return records[i].tail == POSITIONS ? take_positions(decoding, &body)
                                            : take_record(decoding, &records[i], &body);
    }
    explain_table(decoding->out->explanation, false, "no row of records");
    if (name_of_type(type) == NULL) {
        body = reader_of(decoding->frame.data, decoding->frame.length);
    } else {
        explain_data(decoding->out, decoding->frame.data, 1, "type of the record", FIELD_MESSAGE_TYPE, NULL);
        explain_data(decoding->out, decoding->frame.data + 1, 1, "its subtype", FIELD_EVENT_ENUM, NULL);
    }
    begin_record(decoding);
    set_payload(decoding->out, body.next, reader_left(&body));
    publish(decoding);
    return CODEC_OK;
}

// Frame types that the gateway takes and answers.
static const struct intake {
    uint8_t type;
    enum codec_verdict (*take)(struct decoding *decoding);
    uint8_t reply;
    enum codec_reply_when when;
} intakes[] = {
    {LOGIN, take_login, LOGIN_REPLY, CODEC_NOW},
    {DATA, take_data, DATA_REPLY, CODEC_WHEN_SAFE},
    {HEARTBEAT, take_heartbeat, HEARTBEAT_REPLY, CODEC_NOW},
};

static const struct intake *find_intake(uint8_t type) {
    for (size_t i = 0; i < sizeof intakes / sizeof intakes[0]; i++)
        if (intakes[i].type == type)
            return &intakes[i];
    return NULL;
}

static void put_reply(const struct decoding *decoding, const struct intake *intake,
                      enum codec_reply_when when) {
    static const uint8_t accepted[] = {0x01};
    uint8_t bytes[FRAME_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    struct frame reply = decoding->frame;
    reply.type = intake->reply;
    reply.length = intake->type == LOGIN ? 1 : intake->type == DATA ? 2 : 0;
    if (intake->type == LOGIN)
        reply.data = accepted;
    write_frame(&reply, &writer);
    decoding->out->reply(decoding->out->context, bytes, writer.length, when);
}

// --- answers to commands ---

#define ANSWER_FIELDS_MAX 64
#define FIELD_NAME_MAX    24
#define RESULT_SIZE       3

struct answer_fields {
    size_t count;
    struct property items[ANSWER_FIELDS_MAX];
    char names[ANSWER_FIELDS_MAX][FIELD_NAME_MAX];
    size_t text_used;
    char text[3 * FRAME_MAX]; // two digits a byte, and a NUL each
};

// "parameters.ID", or NULL when there are too many.
static struct property *add_field(struct answer_fields *fields, unsigned long id) {
    if (fields->count == ANSWER_FIELDS_MAX)
        return NULL;
    char *name = fields->names[fields->count];
    struct property *property = &fields->items[fields->count++];
    snprintf(name, FIELD_NAME_MAX, "parameters.%lu", id);
    property->name = name;
    return property;
}

// `id 2, result 1`, repeated; false when it is not that.
static bool read_results(struct reader body, struct answer_fields *fields, enum codec_outcome *outcome) {
    if (reader_left(&body) == 0 || reader_left(&body) % RESULT_SIZE != 0)
        return false;
    while (reader_left(&body) > 0) {
        struct property *property = add_field(fields, (unsigned long)reader_unsigned(&body, 2));
        bool accepted = reader_unsigned(&body, 1) != 0;
        if (!accepted)
            *outcome = CODEC_FAILURE;
        if (property != NULL) {
            property->type = PROPERTY_BOOLEAN;
            property->boolean = accepted;
        }
    }
    return true;
}

static bool is_printable(const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (bytes[i] < ' ' || bytes[i] > '~')
            return false;
    return true;
}

// A number of 1, 2 or 4 bytes; else text, in hexadecimal digits where it is not printable.
static void set_parameter(struct answer_fields *fields, struct property *property, struct reader *value) {
    size_t width = reader_left(value);
    if (width == 1 || width == 2 || width == 4) {
        property->type = PROPERTY_NUMBER;
        property->number = decimal_integer((int64_t)reader_unsigned(value, width));
        return;
    }
    char *text = fields->text + fields->text_used;
    property->type = PROPERTY_TEXT;
    property->text = text;
    size_t length = width;
    if (is_printable(value->next, width)) {
        memcpy(text, value->next, width);
        text[width] = '\0';
    } else {
        length = value_hex(value->next, width, text);
    }
    fields->text_used += length + 1;
}

// `id 4, length 1, value`, repeated; false when it is not that.
static bool read_values(struct reader body, struct answer_fields *fields) {
    if (reader_left(&body) == 0)
        return false;
    while (reader_left(&body) > 0) {
        unsigned long id = (unsigned long)reader_unsigned(&body, 4);
        size_t length = (size_t)reader_unsigned(&body, 1);
        struct reader value = reader_part(&body, length);
        if (body.fault)
            return false;
        struct property *property = add_field(fields, id);
        if (property != NULL)
            set_parameter(fields, property, &value);
    }
    return true;
}

static void explain_results(const struct codec_out *out, struct reader body) {
    char index[EXPLAIN_INDEX_MAX];
    while (reader_left(&body) > 0) {
        const uint8_t *bytes = body.next;
        sprintf(index, "%u", (unsigned)reader_unsigned(&body, 2));
        reader_unsigned(&body, 1);
        explain_data(out, bytes, 2, "id of a parameter", FIELD_NONE, NULL);
        explain_data(out, bytes + 2, 1, "result of parameter", FIELD_NONE, index);
    }
}

static void explain_values(const struct codec_out *out, struct reader body) {
    char index[EXPLAIN_INDEX_MAX];
    while (reader_left(&body) > 0) {
        const uint8_t *bytes = body.next;
        sprintf(index, "%lu", (unsigned long)reader_unsigned(&body, 4));
        struct reader value = reader_part(&body, (size_t)reader_unsigned(&body, 1));
        explain_data(out, bytes, 4, "id of a parameter", FIELD_NONE, NULL);
        explain_data(out, bytes + 4, 1, "its length", FIELD_NONE, NULL);
        explain_data(out, value.next, reader_left(&value), "value of parameter", FIELD_NONE, index);
    }
}

static void explain_answer(const struct decoding *decoding, struct reader body, uint8_t subtype,
                           bool parsed) {
    struct codec_out *out = decoding->out;
    explain_table(out->explanation, false, "answers");
    explain_data(out, decoding->frame.data, 1, "type of the answer", FIELD_NONE, NULL);
    explain_data(out, decoding->frame.data + 1, 1, "its subtype", FIELD_NONE, NULL);
    explain_table(out->explanation, subtype != SET_PARAMETERS, "answers");
    if (parsed && subtype == SET_PARAMETERS)
        explain_results(out, body);
    else if (parsed)
        explain_values(out, body);
    else
        explain_data(out, body.next, reader_left(&body), "the answer", FIELD_NONE, NULL);
}

static enum codec_verdict take_answer(struct decoding *decoding) {
    struct reader body = reader_of(decoding->frame.data, decoding->frame.length);
    char key[CODEC_COMMAND_KEY_MAX], hex[2 * FRAME_MAX + 1];
    struct answer_fields fields = {0};
    enum codec_outcome outcome = CODEC_SUCCESS;
    bool parsed = false, ours = reader_unsigned(&body, 1) == DATA_TYPE_COMMAND;
    uint8_t subtype = (uint8_t)reader_unsigned(&body, 1);
    if (body.fault)
        return codec_reject(decoding->out, CODEC_SHORT,
                            (size_t)(decoding->frame.data - decoding->frame.bytes),
                            "an answer without type and subtype");
    if (ours && subtype == SET_PARAMETERS)
        parsed = read_results(body, &fields, &outcome);
    if (ours && subtype == GET_PARAMETERS)
        parsed = read_values(body, &fields);
    if (ours && subtype == CALIBRATE && reader_left(&body) == 1 && body.next[0] == 0)
        outcome = CODEC_FAILURE;
    struct properties bag = {.items = fields.items, .count = fields.count};
    if (decoding->out->explanation != NULL)
        explain_answer(decoding, body, subtype, parsed);
    value_hex(body.next, reader_left(&body), hex);
    snprintf(key, sizeof key, "frame %u", decoding->frame.id);
    know_sender(decoding);
    decoding->out->answer(
        decoding->out->context,
        &(struct codec_answer){.key = key, .outcome = outcome, .text = hex, .fields = parsed ? &bag : NULL});
    return CODEC_OK;
}

// --- decoding ---

static enum codec_verdict take_frame(struct decoding *decoding) {
    struct magicyo_session *session = decoding->session;
    const struct frame *frame = &decoding->frame;
    const struct intake *intake = find_intake(frame->type);
    bool repeated = frame->type == LOGIN ? was_last(session, frame) : was_seen(session, frame);
    enum codec_verdict verdict = CODEC_OK;
    if (frame->type == DATA && frame->length < 2) // not even enough to answer
        return codec_reject(decoding->out, CODEC_SHORT, (size_t)(frame->data - frame->bytes),
                            "data without type and subtype");
    if (repeated)
        explain_data(decoding->out, frame->data, frame->length, "repeated: not looked at again", FIELD_NONE,
                     NULL);
    else
        verdict = intake != NULL ? intake->take(decoding) : take_unknown_frame(decoding);
    if (verdict != CODEC_OK && !decoding->published) {
        if (frame->type == DATA)
            put_reply(decoding, intake, CODEC_NOW);
        return verdict;
    }
    know_sender(decoding);
    if (!repeated && frame->type == LOGIN)
        session->seen_count = session->seen_next = 0;
    if (!repeated)
        note_seen(session, frame);
    if (intake != NULL && !decoding->refused)
        put_reply(decoding, intake, intake->when);
    return verdict;
}

static enum codec_verdict magicyo_decode(void *session, const uint8_t *bytes, size_t length,
                                         struct codec_out *out) {
    struct decoding decoding = {.session = session, .out = out};
    enum codec_verdict verdict = open_frame(bytes, length, &decoding);
    if (verdict == CODEC_OK)
        verdict = check_sender(&decoding);
    if (verdict != CODEC_OK)
        return verdict;
    if (decoding.frame.type == DATA_REPLY)
        return take_answer(&decoding);
    if (decoding.frame.type != DISCONNECT)
        return take_frame(&decoding);
    know_sender(&decoding);
    explain_data(out, decoding.frame.data, decoding.frame.length, "without meaning", FIELD_NONE, NULL);
    out->closes = true;
    return CODEC_OK;
}

// --- commands ---

static void write_number(struct codec_writer *writer, int64_t value, size_t width) {
    uint8_t bytes[8];
    for (size_t i = 0; i < width; i++)
        bytes[i] = (uint8_t)((uint64_t)value >> (8 * (width - 1 - i)));
    codec_write(writer, bytes, width);
}

// "parameters.3.value"
static const struct property *member(const struct properties *with, const char *list, size_t index,
                                     const char *name) {
    char path[48];
    snprintf(path, sizeof path, "%s.%zu%s%s", list, index, *name != '\0' ? "." : "", name);
    return properties_find(with, path);
}

static enum codec_verdict write_parameter(const struct properties *with, size_t index,
                                          struct codec_writer *data, char reason[CODEC_REASON_MAX]) {
    const struct property *id = member(with, "parameters", index, "id");
    const struct property *value = member(with, "parameters", index, "value");
    const struct property *size = member(with, "parameters", index, "size");
    if (id == NULL || value == NULL || id->type != PROPERTY_NUMBER || value->type == PROPERTY_BOOLEAN)
        return codec_refuse(reason, CODEC_BAD_VALUE, "a parameter needs an id and a value");
    write_number(data, id->number.mantissa, 4);
    if (value->type == PROPERTY_TEXT) {
        codec_write(data, value->text, strlen(value->text));
        return CODEC_OK;
    }
    if (size == NULL || size->type != PROPERTY_NUMBER || size->number.mantissa < 1 ||
        size->number.mantissa > 4)
        return codec_refuse(reason, CODEC_BAD_VALUE, "a parameter that is a number needs a size");
    size_t width = (size_t)size->number.mantissa;
    int64_t limit = (int64_t)1 << (8 * width);
    if (value->number.mantissa < -limit / 2 || value->number.mantissa >= limit)
        return codec_refuse(reason, CODEC_BAD_VALUE, "%lld of parameter %lld does not fit in %zu bytes",
                            (long long)value->number.mantissa, (long long)id->number.mantissa, width);
    write_number(data, value->number.mantissa, width);
    return CODEC_OK;
}

// A text carries no length, so that only the end of the frame can end it.
static enum codec_verdict encode_set(const struct properties *with, struct codec_writer *data,
                                     char reason[CODEC_REASON_MAX]) {
    bool text = false;
    codec_write(data, (const uint8_t[]){DATA_TYPE_COMMAND, SET_PARAMETERS}, 2);
    for (size_t i = 0; member(with, "parameters", i, "id") != NULL; i++) {
        const struct property *value = member(with, "parameters", i, "value");
        if (text)
            return codec_refuse(reason, CODEC_BAD_VALUE,
                                "a parameter that is a text can only be the last one");
        text = value != NULL && value->type == PROPERTY_TEXT;
        enum codec_verdict verdict = write_parameter(with, i, data, reason);
        if (verdict != CODEC_OK)
            return verdict;
    }
    return CODEC_OK;
}

static enum codec_verdict encode_get(const struct properties *with, struct codec_writer *data,
                                     char reason[CODEC_REASON_MAX]) {
    const struct property *id;
    codec_write(data, (const uint8_t[]){DATA_TYPE_COMMAND, GET_PARAMETERS}, 2);
    for (size_t i = 0; (id = member(with, "ids", i, "")) != NULL; i++)
        write_number(data, id->number.mantissa, 4);
    return CODEC_OK;
}

static enum codec_verdict encode_calibrate(const struct properties *with, struct codec_writer *data,
                                           char reason[CODEC_REASON_MAX]) {
    codec_write(data, (const uint8_t[]){DATA_TYPE_COMMAND, CALIBRATE}, 2);
    return CODEC_OK;
}

static enum codec_verdict encode_custom(const struct properties *with, struct codec_writer *data,
                                        char reason[CODEC_REASON_MAX]) {
    const char *hex = properties_text(with, "payload", "");
    unsigned byte;
    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        codec_write(data, &(uint8_t){(uint8_t)byte}, 1);
    return CODEC_OK;
}

static const struct command {
    const char *name;
    enum codec_verdict (*encode)(const struct properties *with, struct codec_writer *data,
                                 char reason[CODEC_REASON_MAX]);
} commands[] = {
    {"parameters.set", encode_set},
    {"parameters.get", encode_get},
    {"accelerometer.calibrate", encode_calibrate},
    {"custom", encode_custom},
};

// A device that has not said anything yet is taken to speak V2, and one that is not known to have an IMEI of
// zeros.
static enum codec_verdict magicyo_encode(void *memory, const struct codec_setting *setting,
                                         const struct codec_command *command, struct codec_writer *writer,
                                         struct codec_expectation *expectation,
                                         char reason[CODEC_REASON_MAX]) {
    struct magicyo_session *session = memory;
    uint8_t bytes[FRAME_MAX - V2_OVERHEAD];
    struct codec_writer data = {.bytes = bytes, .capacity = sizeof bytes};
    size_t i = 0;
    while (i < sizeof commands / sizeof commands[0] && strcmp(commands[i].name, command->name) != 0)
        i++;
    if (i == sizeof commands / sizeof commands[0])
        return codec_refuse(reason, CODEC_UNSUPPORTED, "Magicyo devices have no such command");
    enum codec_verdict verdict = commands[i].encode(&command->properties, &data, reason);
    if (verdict != CODEC_OK)
        return verdict;
    if (data.length > data.capacity)
        return codec_refuse(reason, CODEC_BAD_VALUE, "the frame for the device has more than 1024 bytes");
    session->last_command++;
    write_frame(&(struct frame){.form = session->form,
                                .type = DATA,
                                .id = session->last_command,
                                .ident = setting->ident != NULL ? setting->ident : "000000000000000",
                                .data = bytes,
                                .length = data.length},
                writer);
    *expectation = (struct codec_expectation){0};
    snprintf(expectation->key, sizeof expectation->key, "frame %u", session->last_command);
    return CODEC_OK;
}

const struct codec codec_magicyo = {
    .name = "magicyo",
    .id = 2,
    .title = "Magicyo",
    .session_size = sizeof(struct magicyo_session),
    .frame_max = FRAME_MAX,
    .junk_max = 4096,
    .frame = magicyo_frame,
    .sender = magicyo_sender,
    .decode = magicyo_decode,
    .encode = magicyo_encode,
    .seal = magicyo_seal,
};
