// Mictrack MT821 and MT825: reports and answers as text.
//
// Source: "Mictrack Communication Protocol (for MT821/MT825) V2.0", and for what it leaves open the traffic
// of real devices and other public implementations (marked "field" below).
//
// A report is
//
//   MT;mode;imei;type;item+item+…
//   MT;6;866425031361423;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113
//
//   mode  one digit, the working mode        imei  15 digits        type  R0 R1 R2 R3 R12 R13 RH RC, Y1
//   (field)
//
// TCP has no frame end (field): reports come with LF, CR LF or nothing behind them, split and joined at any
// byte. The last item has 1 to 3 digits, so a report with all its items ends where the next byte is neither a
// digit nor `+`; any report ends at CR, LF or the next "MT;", and after a silence if it has all its items. A last
// item of 3 digits cannot grow: with that a report ends at once, when its segment does. What a report or a position has more than the items that are known becomes custom.payload.
//
// An answer to a command is a line of its own, all but free in its form:
//
//   mode=Success!   ----Protocol =Fail!   otastart =Success! OTADONE   867035041390699 netlock=Success!
//   rconf=m2m,,113.98.254.179,7700,6,30,MT825_MICTRACK_B1.08V3.8_20200814,NB-IoT
//
// the last with the IMEI on the line before.
//
// Other models of the family send positions so (field; message.type "low_altitude"), several $ groups behind
// one IMEI:
//
//   IMEI$hhmmss.ss,A,ddmm.mmmm,N,dddmm.mmmm,E,knots,course,altitude,ddmmyy
//
// Over UDP a device may be set to wait for an acknowledgement of each datagram. No document gives its text, so
// that it is an option of the channel: udp_ack.
#include <stdio.h>
#include <string.h>

#include "codecs/codec.h"
#include "codecs/layout.h"
#include "codecs/reader.h"
#include "codecs/values.h"
#include "schema/utf8.h"

#define HEADER        "MT;"
#define IMEI_DIGITS   15
#define NUMBER_DIGITS 3 // of the last item of a report, at most
#define FRAME_MAX     2048
#define LINE_MAX_     512 // an answer is shorter; more than this without an end is junk
#define OTA_TIMEOUT   900 // seconds until an update of the firmware has ended
#define COMMAND_TEXT  255 // longest text that a device is sent
#define ACK_MAX       512 // bytes of an acknowledgement

struct mictrack_session {
    char ident[IMEI_DIGITS + 1]; // empty until the device has said it
    bool acknowledged;           // the datagram at hand
};

enum option { UDP_ACK };

static const char *const options[] = {[UDP_ACK] = "udp_ack", NULL};

// --- layouts: the items of each report ---

enum kind {
    TEXT = LAYOUT_OWN,
    TIME, // YYMMDDhhmmss
    EVENT,
    LATITUDE,
    LONGITUDE,
    WIFI,      // mac,rssi pairs
    WIFI_SSID, // ssid,mac,rssi triples; this item may hold `+`
    CELLS_GSM, // mnc,cellid,lac,mcc groups
    CELLS_LTE, // mnc,cellid,lac,mcc,pcid groups
};

#define ITEMS_MAX 9

struct layout {
    const char *type;
    size_t count;                            // of items
    struct layout_item items[ITEMS_MAX + 1]; // up to LAYOUT_END, which zeros are
    bool answers_where;                      // a position that the device may have been asked for
};

// clang-format off
#define ITEM_TIME       {TIME, FIELD_TIMESTAMP}
#define ITEM_SATELLITES {LAYOUT_NUMBER, FIELD_POSITION_SATELLITES}
#define ITEM_WIFI       {WIFI, FIELD_WIFI_ACCESS_POINTS}
#define ITEM_CELLS_GSM  {CELLS_GSM, FIELD_GSM_CELLS}
#define ITEM_CELLS_LTE  {CELLS_LTE, FIELD_GSM_CELLS}
#define ITEM_UNUSED     {LAYOUT_SKIP, .name = "without meaning"}
#define ITEMS_TAIL                                      \
    {EVENT, FIELD_EVENT_ENUM},                          \
    {LAYOUT_NUMBER, FIELD_BATTERY_VOLTAGE, .scale = 3}, \
    {LAYOUT_NUMBER, FIELD_MESSAGE_SEQNUM}

static const struct layout layouts[] = {
    {"R0", 9,
     {ITEM_SATELLITES,
      ITEM_TIME,
      {LATITUDE, FIELD_POSITION_LATITUDE, .name = "latitude, without a fix"},
      {LONGITUDE, FIELD_POSITION_LONGITUDE, .name = "longitude, without a fix"},
      {LAYOUT_NUMBER, FIELD_POSITION_SPEED},
      {LAYOUT_NUMBER, FIELD_POSITION_DIRECTION},
      ITEMS_TAIL},
     true},
    {"R1", 5, {ITEM_TIME, ITEM_WIFI, ITEMS_TAIL}, true},
    {"R2", 5, {ITEM_TIME, ITEM_CELLS_GSM, ITEMS_TAIL}, true},
    {"R3", 5, {ITEM_TIME, ITEM_CELLS_LTE, ITEMS_TAIL}, true},
    {"R12", 6, {ITEM_TIME, ITEM_WIFI, ITEM_CELLS_GSM, ITEMS_TAIL}, true},
    {"R13", 6, {ITEM_TIME, ITEM_WIFI, ITEM_CELLS_LTE, ITEMS_TAIL}, true},
    {"RH", 9,
     {ITEM_SATELLITES, ITEM_TIME, ITEM_UNUSED, ITEM_UNUSED, ITEM_UNUSED, ITEM_UNUSED, ITEMS_TAIL},
     false},
    {"RC", 8,
     {{TEXT, FIELD_SOFTWARE_VERSION},
      {LAYOUT_FLAG, FIELD_CUSTOM_GSENSOR_STATUS},
      {LAYOUT_NUMBER, FIELD_CUSTOM_REPORT_INTERVAL},
      {LAYOUT_NUMBER, FIELD_CUSTOM_WAKEUP_HOUR},
      {LAYOUT_NUMBER, FIELD_CUSTOM_SLEEP_INTERVAL},
      {LAYOUT_NUMBER, FIELD_CUSTOM_KEY_FUNCTION},
      {LAYOUT_NUMBER, FIELD_CUSTOM_TIMEZONE},
      {LAYOUT_FLAG, FIELD_CUSTOM_TIMEZONE_STATUS}},
     false},
    {"Y1", 5, {ITEM_TIME, {WIFI_SSID, FIELD_WIFI_ACCESS_POINTS}, ITEMS_TAIL}, false},
};
// clang-format on
#define TAIL_ITEMS 3 // event, battery, sequence

static const struct event {
    int64_t code;
    enum field field;
    bool value;
} events[] = {
    {0, FIELD_POWER_ON_STATUS, true},
    {5, FIELD_ALARM_EVENT, true}, // SOS on MT825, light on MT821: the message does not say which model
    {8, FIELD_BATTERY_LOW_ALARM, true},
    {9, FIELD_GEOFENCE_IN_ALARM, true},   // field
    {10, FIELD_GEOFENCE_OUT_ALARM, true}, // field
    {12, FIELD_POWER_ON_STATUS, false},
    {13, FIELD_BATTERY_CHARGING_STATUS, true},
    {14, FIELD_BATTERY_CHARGING_STATUS, false},
    {15, FIELD_POWER_ON_STATUS, true},
    {16, FIELD_POWER_ON_STATUS, false},
};

static const struct layout *find_layout(struct span type) {
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (span_is(type, layouts[i].type))
            return &layouts[i];
    return NULL;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static struct span span_after(struct span span, size_t count) {
    return (struct span){.text = span.text + count, .length = span.length - count};
}

static size_t count_digits(const char *text, size_t length) {
    size_t count = 0;
    while (count < length && is_digit(text[count]))
        count++;
    return count;
}

// aa:bb:cc:dd:ee:ff or aa-bb-cc-dd-ee-ff, at the beginning of text.
#define MAC_LENGTH 17
static bool is_mac(const char *text, size_t length) {
    if (length < MAC_LENGTH || (text[2] != ':' && text[2] != '-'))
        return false;
    for (size_t i = 0; i < MAC_LENGTH; i++) {
        char c = text[i];
        bool hex = is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (i % 3 == 2 ? c != text[2] : !hex)
            return false;
    }
    return true;
}

// --- framing ---

static struct codec_frame frame_is(enum codec_frame_kind kind, size_t length, const char *reason) {
    return (struct codec_frame){.kind = kind, .length = length, .reason = reason};
}

static bool starts_with_header(const char *text, size_t length) {
    return length >= strlen(HEADER) && memcmp(text, HEADER, strlen(HEADER)) == 0;
}

// Header, mode, IMEI and what follows: what an SSID surely does not hold.
static bool starts_with_whole_header(const char *text, size_t length) {
    return length > 6 + IMEI_DIGITS && starts_with_header(text, length) && is_digit(text[3]) &&
           text[4] == ';' && count_digits(text + 5, IMEI_DIGITS) == IMEI_DIGITS &&
           text[5 + IMEI_DIGITS] == ';';
}

// Offset of the CR, LF or header that ends what begins at text, or length when there is none.
static size_t find_end(const char *text, size_t length, bool (*is_header)(const char *, size_t)) {
    for (size_t at = 1; at < length; at++)
        if (text[at] == '\r' || text[at] == '\n' || (text[at] == 'M' && is_header(text + at, length - at)))
            return at;
    return length;
}

// A report, as far as its header can be read: layout is NULL for types without one.
struct outline {
    const struct layout *layout;
    size_t data; // offset of the first item, or 0 when the header is not all there
    bool closed; // no more digits can come to the last item
};

static struct outline read_outline(const char *text, size_t length) {
    struct text_reader reader = text_reader_of(text, length);
    for (int i = 0; i < 3; i++)
        text_item(&reader, ';'); // MT, mode, IMEI
    struct span type = text_item(&reader, ';');
    if (!text_has_item(&reader))
        return (struct outline){0};
    return (struct outline){.layout = find_layout(type), .data = (size_t)(reader.next - text)};
}

// The end of the digits at text[at]: the last item of a report. An answer with the IMEI in front may follow
// without anything between: its 15 digits are not the item's.
static size_t last_item_end(const char *text, size_t length, size_t at, bool closed) {
    size_t digits = count_digits(text + at, length - at);
    if (digits > IMEI_DIGITS && digits <= IMEI_DIGITS + NUMBER_DIGITS && (closed || at + digits < length))
        digits -= IMEI_DIGITS;
    return at + digits;
}

// Whether text[at] begins `+digits+digits+digits`, and where that ends.
static bool is_tail(const char *text, size_t length, size_t at, bool closed, size_t *end) {
    for (int i = 0; i < TAIL_ITEMS; i++) {
        if (at >= length || text[at] != '+')
            return false;
        at++;
        *end = last_item_end(text, length, at, closed);
        if (i + 1 == TAIL_ITEMS)
            return *end > at && (*end == length || text[*end] != '+');
        at += count_digits(text + at, length - at);
    }
    return false;
}

// Whether what stands before text[at] is the end of a Wi-Fi list: MAC,RSSI, or nothing at all.
static bool ends_wifi_list(const char *text, size_t at, size_t list) {
    size_t comma = at;
    if (at == list)
        return true;
    while (comma > list && (is_digit(text[comma - 1]) || text[comma - 1] == '-'))
        comma--;
    return comma >= list + MAC_LENGTH + 1 && text[comma - 1] == ',' &&
           is_mac(text + comma - 1 - MAC_LENGTH, MAC_LENGTH);
}

// Where the items of the report are all there and end, or 0 when they do not by themselves within length. A
// report with more items than are known ends only with the text.
static size_t find_items_end(const char *text, size_t length, struct outline outline) {
    size_t at = outline.data, items = 1, end;
    if (outline.layout->items[1].kind == WIFI_SSID) {
        while (at < length && text[at] != '+')
            at++;
        for (size_t list = ++at; at < length; at++)
            if (text[at] == '+' && ends_wifi_list(text, at, list) &&
                is_tail(text, length, at, outline.closed, &end))
                return end;
        return 0;
    }
    for (; at < length && items < outline.layout->count; at++)
        items += text[at] == '+';
    end = last_item_end(text, length, at, outline.closed);
    if (items < outline.layout->count || (end == at && end == length))
        return 0;
    if (end < length && text[end] == '+')
        return length;
    return end > at ? end : 0;
}

// Whether the last item before text[end] has as many digits as a sequence number can have.
static bool has_full_number(const char *text, size_t end) {
    size_t digits = 0;
    while (digits < end && is_digit(text[end - digits - 1]))
        digits++;
    return digits == NUMBER_DIGITS;
}

static struct codec_frame frame_report(const char *text, size_t length, enum codec_follow follow) {
    struct outline outline = read_outline(text, length);
    bool free_text = outline.layout != NULL && outline.layout->items[1].kind == WIFI_SSID;
    size_t end = find_end(text, length, starts_with_header);
    if (end < outline.data)
        outline = (struct outline){0}; // the header that was read is the next report's
    else if (free_text)                // which the header itself is not
        end = find_end(text, length, starts_with_whole_header);
    outline.closed = end < length || follow == CODEC_QUIET || follow == CODEC_END;
    size_t items_end = outline.layout != NULL ? find_items_end(text, end, outline) : 0;
    if (items_end > 0 && items_end < end)
        return frame_is(CODEC_READY, items_end, NULL);
    if (end < length || follow == CODEC_END)
        return frame_is(CODEC_READY, end, NULL);
    bool whole = items_end > 0 || (outline.layout == NULL && outline.data > 0 && outline.data < length);
    bool full = items_end == end && follow == CODEC_PAUSE && has_full_number(text, end);
    return full || (whole && follow == CODEC_QUIET) ? frame_is(CODEC_READY, end, NULL)
                                                    : frame_is(CODEC_MORE, 0, NULL);
}

// A group from its $ to the end of its date, or of what more it has behind that; 0 when it has no whole date
// within length.
#define ALTITUDE_COMMAS 9
#define DATE_DIGITS     6
static size_t find_group_end(const char *text, size_t length, size_t at) {
    size_t commas = 0;
    for (at++; at < length && commas < ALTITUDE_COMMAS && text[at] != '$'; at++)
        commas += text[at] == ',';
    if (commas < ALTITUDE_COMMAS || count_digits(text + at, length - at) < DATE_DIGITS)
        return 0;
    at += DATE_DIGITS;
    if (at < length && text[at] == ',')
        while (at < length && text[at] != '$')
            at++;
    return at;
}

static struct codec_frame frame_low_altitude(const char *text, size_t length, enum codec_follow follow) {
    size_t end = find_end(text, length, starts_with_header);
    size_t groups_end = find_group_end(text, end, IMEI_DIGITS);
    while (groups_end > 0 && groups_end < end && text[groups_end] == '$')
        groups_end = find_group_end(text, end, groups_end);
    if (groups_end > 0 && groups_end < end)
        return frame_is(CODEC_READY, groups_end, NULL);
    if (end < length || follow == CODEC_END || (follow == CODEC_QUIET && groups_end == end))
        return frame_is(CODEC_READY, end, NULL);
    return frame_is(CODEC_MORE, 0, NULL);
}

// --- answers: the shape of one ---

struct answer_parts {
    struct span imei;  // empty without one
    struct span words; // the answer without the IMEI
    struct span code;  // "mode", as the device spells it; empty where there is none
    struct span value; // behind the `=`
};

static bool is_ota_result(struct span words) {
    return span_is_word(words, "otadone") || span_is_word(words, "otafailed");
}

// Takes a line apart. True when it is an answer, or an IMEI alone.
static bool split_answer(struct span line, struct answer_parts *parts) {
    *parts = (struct answer_parts){.words = span_trim(line)};
    if (count_digits(parts->words.text, parts->words.length) == IMEI_DIGITS) {
        parts->imei = (struct span){.text = parts->words.text, .length = IMEI_DIGITS};
        parts->words = span_trim(span_after(parts->words, IMEI_DIGITS));
        if (parts->words.length == 0)
            return true;
    }
    struct span rest = parts->words;
    if (is_ota_result(rest))
        return true;
    while (rest.length > 0 && (rest.text[0] == '-' || rest.text[0] == ' '))
        rest = span_after(rest, 1);
    struct span code = {.text = rest.text};
    while (code.length < rest.length &&
           (is_letter(rest.text[code.length]) || is_digit(rest.text[code.length])))
        code.length++;
    parts->value = span_trim(span_after(rest, code.length));
    if (code.length == 0 || !is_letter(code.text[0]) || parts->value.length == 0 ||
        parts->value.text[0] != '=')
        return false;
    parts->code = code;
    parts->value = span_trim(span_after(parts->value, 1));
    return true;
}

static bool contains_word(struct span text, const char *lower_case) {
    size_t length = strlen(lower_case);
    for (size_t at = 0; at + length <= text.length; at++)
        if (span_is_word((struct span){.text = text.text + at, .length = length}, lower_case))
            return true;
    return false;
}

static size_t count_char(struct span text, char c) {
    size_t count = 0;
    for (size_t i = 0; i < text.length; i++)
        count += text.text[i] == c;
    return count;
}

// The codes that answer "Success" or "Fail".
static bool is_result_code(struct span code) {
    static const char *const codes[] = {"data",  "apn",    "mode",         "netlock",  "protocol",
                                        "light", "reboot", "factoryreset", "otastart", "ota"};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (span_is_word(code, codes[i]))
            return true;
    return false;
}

#define RCONF_FIELDS 8

// Whether an answer that a silence follows is all there.
static bool is_whole_answer(const struct answer_parts *parts) {
    if (parts->code.length == 0)
        return parts->words.length > 0; // OTADONE; an IMEI alone waits for what it belongs to
    if (parts->value.length == 0)
        return false;
    char last = parts->value.text[parts->value.length - 1];
    if (span_is_word(parts->code, "rconf"))
        return last == '!' || (count_char(parts->value, ',') + 1 >= RCONF_FIELDS && last != ',');
    return !is_result_code(parts->code) || contains_word(parts->value, "success") ||
           contains_word(parts->value, "fail");
}

static bool is_plain(char c) {
    return (c >= ' ' && c <= '~') || c == '\t';
}

// How many bytes at the end of text begin a header that is not all there.
static size_t header_begun(const char *text, size_t length) {
    size_t begun = strlen(HEADER) - 1;
    while (begun > length || memcmp(text + length - begun, HEADER, begun) != 0)
        begun--;
    return begun;
}

static struct codec_frame frame_line(const char *text, size_t length, enum codec_follow follow) {
    struct answer_parts parts;
    size_t end = 0;
    size_t limit = find_end(text, length, starts_with_header);
    while (end < limit && is_plain(text[end]))
        end++;
    if (end == 0) {
        while (end < length && !is_plain(text[end]) && text[end] != '\r' && text[end] != '\n')
            end++;
        return frame_is(CODEC_SKIP, end, "bytes that are no text");
    }
    // What may turn out to be a header is not the line's.
    size_t sure = end == length && (follow == CODEC_OPEN || follow == CODEC_PAUSE)
                      ? end - header_begun(text, end)
                      : end;
    if (sure > LINE_MAX_)
        return frame_is(CODEC_SKIP, LINE_MAX_, "a line without an end");
    bool answer = split_answer((struct span){.text = text, .length = end}, &parts);
    // Digits in the middle of another protocol's bytes name no device.
    bool in_junk = end < limit && text[end] != '\r' && text[end] != '\n';
    if (answer && in_junk && parts.words.length == 0)
        answer = false;
    if (end < length || follow == CODEC_END)
        return answer ? frame_is(CODEC_READY, end, NULL)
                      : frame_is(CODEC_SKIP, end, "text that is neither a report nor an answer");
    if (follow == CODEC_QUIET && answer && is_whole_answer(&parts))
        return frame_is(CODEC_READY, end, NULL);
    return frame_is(CODEC_MORE, 0, NULL);
}

static struct codec_frame mictrack_frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    const char *text = (const char *)bytes;
    size_t gap = 0;
    while (gap < length && (text[gap] == '\r' || text[gap] == '\n' || text[gap] == ' ' || text[gap] == '\t'))
        gap++;
    if (gap > 0)
        return frame_is(CODEC_GAP, gap, NULL);
    if (starts_with_header(text, length))
        return frame_report(text, length, follow);
    if (length > IMEI_DIGITS && count_digits(text, length) == IMEI_DIGITS && text[IMEI_DIGITS] == '$')
        return frame_low_altitude(text, length, follow);
    return frame_line(text, length, follow);
}

// --- values ---

static void explain_span(struct explanation *explanation, struct span span, const char *name,
                         enum field field) {
    if (explanation != NULL)
        explain_add(explanation, &(struct explain_piece){.bytes = (const uint8_t *)span.text,
                                                         .length = span.length,
                                                         .name = name,
                                                         .field = field});
}

static void set_time(struct message *message, struct span text, int64_t now) {
    int64_t seconds;
    text = span_trim(text);
    if (value_time_of_digits(text, "YMDhms", &seconds))
        layout_set_time(message, FIELD_TIMESTAMP, decimal_integer(seconds), text, now);
    else
        message_note_removed(message, FIELD_TIMESTAMP, text.text, text.length,
                             text.length > 0 ? "not a time YYMMDDhhmmss" : message_absent);
}

static void set_number(struct message *message, enum field field, struct span text) {
    layout_set_number(message, &(struct layout_item){LAYOUT_NUMBER, field},
                      &(struct layout_value){.is_text = true, .text = text});
}

// The vendor's document writes `\_` for the underscores of a version.
static void set_version(struct message *message, enum field field, struct span text) {
    char plain[FRAME_MAX];
    size_t length = 0;
    text = span_trim(text);
    for (size_t i = 0; i < text.length; i++)
        if (text.text[i] != '\\' || i + 1 == text.length || text.text[i + 1] != '_')
            plain[length++] = text.text[i];
    if (length > 0)
        message_set_text(message, field, plain, length);
    else
        message_note_removed(message, field, "", 0, message_absent);
}

static void set_event(struct message *message, struct span text) {
    struct decimal code;
    if (!layout_read_number(message, FIELD_EVENT_ENUM, text, &code))
        return;
    if (!message_set_number(message, FIELD_EVENT_ENUM, code) || code.places > 0)
        return;
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
        if (events[i].code == code.mantissa)
            message_set_boolean(message, events[i].field, events[i].value);
}

// --- Wi-Fi access points ---

static bool is_zero(char c) {
    return c == '0' || c == ':' || c == '-';
}

// Published with colons, however the device writes it.
static void set_mac(struct message *message, struct span mac) {
    char text[MAC_LENGTH];
    for (size_t i = 0; i < MAC_LENGTH; i++)
        text[i] = mac.text[i] == '-' ? ':' : mac.text[i];
    message_set_text(message, FIELD_WIFI_ACCESS_POINTS_MAC, text, MAC_LENGTH);
}

// The list is there from its first access point on: a list of which nothing can be read is not an empty one.
static void add_access_point(const struct layout_walk *walk, struct span ssid, struct span mac,
                             struct span rssi) {
    struct message *message = walk->message;
    size_t zeros = 0;
    explain_span(walk->explanation, ssid, NULL, FIELD_WIFI_ACCESS_POINTS_SSID);
    explain_span(walk->explanation, mac, NULL, FIELD_WIFI_ACCESS_POINTS_MAC);
    explain_span(walk->explanation, rssi, NULL, FIELD_WIFI_ACCESS_POINTS_RSSI);
    while (zeros < MAC_LENGTH && is_zero(mac.text[zeros]))
        zeros++;
    if (zeros == MAC_LENGTH) { // nothing in this place
        message_note_removed(message, FIELD_WIFI_ACCESS_POINTS, "", 0, message_absent);
        return;
    }
    if (message_get(message, FIELD_WIFI_ACCESS_POINTS) == NULL &&
        !message_add_list(message, FIELD_WIFI_ACCESS_POINTS))
        return;
    message_add_row(message, FIELD_WIFI_ACCESS_POINTS);
    set_mac(message, mac);
    set_number(message, FIELD_WIFI_ACCESS_POINTS_RSSI, rssi);
    if (ssid.length > 0) // a hidden network has none
        message_set_text(message, FIELD_WIFI_ACCESS_POINTS_SSID, ssid.text, ssid.length);
}

static bool is_whole_mac(struct span text) {
    return text.length == MAC_LENGTH && is_mac(text.text, text.length);
}

// The next item if it is no MAC address; what belongs to the one before it cannot be the next access point.
static struct span rssi_item(struct text_reader *reader) {
    struct text_reader ahead = *reader;
    struct span item = {.text = ""};
    if (!text_has_item(&ahead) || is_whole_mac(span_trim(text_item(&ahead, ','))))
        return item;
    return text_item(reader, ',');
}

static void reject_access_point(const struct layout_walk *walk, struct span mac, struct span rssi) {
    message_note_removed(walk->message, FIELD_WIFI_ACCESS_POINTS, mac.text, mac.length,
                         mac.length > 0 ? "not a MAC address" : message_absent);
    explain_span(walk->explanation, mac, NULL, FIELD_WIFI_ACCESS_POINTS);
    explain_span(walk->explanation, rssi, NULL, FIELD_WIFI_ACCESS_POINTS);
}

static void set_wifi(const struct layout_walk *walk, struct span text) {
    struct text_reader reader = text_reader_of(text.text, text.length);
    if (span_trim(text).length == 0) { // none in range
        message_add_list(walk->message, FIELD_WIFI_ACCESS_POINTS);
        return;
    }
    while (text_has_item(&reader)) {
        struct span mac = span_trim(text_item(&reader, ','));
        struct span rssi = rssi_item(&reader);
        if (is_whole_mac(mac))
            add_access_point(walk, (struct span){.text = ""}, mac, rssi);
        else
            reject_access_point(walk, mac, rssi);
    }
}

// Where a MAC address stands between two commas: the offset of the first, or the length of text.
static size_t find_mac(struct span text) {
    size_t comma = 0;
    while (comma < text.length &&
           !(text.text[comma] == ',' && text.length - comma > MAC_LENGTH + 1 &&
             is_mac(text.text + comma + 1, MAC_LENGTH) && text.text[comma + 1 + MAC_LENGTH] == ','))
        comma++;
    return comma;
}

// An SSID may hold anything, so the MACs are what it is found by.
static void set_wifi_ssid(const struct layout_walk *walk, struct span text) {
    if (span_trim(text).length == 0)
        message_add_list(walk->message, FIELD_WIFI_ACCESS_POINTS);
    while (span_trim(text).length > 0) {
        size_t comma = find_mac(text);
        if (comma == text.length) {
            message_note_removed(walk->message, FIELD_WIFI_ACCESS_POINTS, text.text, text.length,
                                 "has no MAC address");
            explain_span(walk->explanation, text, NULL, FIELD_WIFI_ACCESS_POINTS);
            return;
        }
        struct span ssid = {.text = text.text, .length = comma};
        struct span mac = {.text = text.text + comma + 1, .length = MAC_LENGTH};
        struct span rest = span_after(text, comma + MAC_LENGTH + 2);
        struct text_reader reader = text_reader_of(rest.text, rest.length);
        struct span rssi = text_item(&reader, ',');
        add_access_point(walk, ssid, mac, rssi);
        text = text_has_item(&reader) ? text_rest(&reader) : (struct span){.text = ""};
    }
}

// --- cells ---

#define CELL_ITEMS_MAX 5

static const enum field serving_cell[CELL_ITEMS_MAX] = {FIELD_GSM_MNC, FIELD_GSM_CELLID, FIELD_GSM_LAC,
                                                        FIELD_GSM_MCC, FIELD_GSM_PCID};
static const enum field listed_cell[CELL_ITEMS_MAX] = {FIELD_GSM_CELLS_MNC, FIELD_GSM_CELLS_CELLID,
                                                       FIELD_GSM_CELLS_LAC, FIELD_GSM_CELLS_MCC,
                                                       FIELD_GSM_CELLS_PCID};

struct cell {
    struct span items[CELL_ITEMS_MAX];
    size_t size; // how many items
};

// Reads the next cell of that size. False, and what is left noted, when it is not all there.
static bool read_cell(const struct layout_walk *walk, struct text_reader *reader, size_t size,
                      struct cell *cell) {
    struct span rest = {.text = reader->next, .length = (size_t)(reader->end - reader->next)};
    cell->size = size;
    for (size_t i = 0; i < size; i++)
        cell->items[i] = span_trim(text_item(reader, ','));
    if (!reader->fault)
        return true;
    message_note_removed(walk->message, FIELD_GSM_CELLS, cell->items[0].text, cell->items[0].length,
                         "a cell with too few items");
    explain_span(walk->explanation, rest, NULL, FIELD_GSM_CELLS);
    return false;
}

// A cell of nothing but zeros stands where there is none.
static bool is_cell(const struct cell *cell) {
    for (size_t i = 0; i < cell->size; i++)
        for (size_t at = 0; at < cell->items[i].length; at++)
            if (cell->items[i].text[at] != '0')
                return true;
    return false;
}

static void explain_cell(struct explanation *explanation, const struct cell *cell, const enum field *fields) {
    for (size_t i = 0; i < cell->size; i++)
        explain_span(explanation, cell->items[i], fields == NULL ? "no cell" : NULL,
                     fields == NULL ? FIELD_NONE : fields[i]);
}

static void set_cell(struct message *message, const struct cell *cell, const enum field *fields) {
    for (size_t i = 0; i < cell->size; i++)
        set_number(message, fields[i], cell->items[i]);
}

static void list_cell(struct message *message, const struct cell *cell) {
    if (message_get(message, FIELD_GSM_CELLS) == NULL && !message_add_list(message, FIELD_GSM_CELLS))
        return;
    message_add_row(message, FIELD_GSM_CELLS);
    set_cell(message, cell, listed_cell);
}

// The first cell is the serving one; all stand in a list when there are others.
static void set_cells(const struct layout_walk *walk, struct span text, size_t size, const char *network) {
    struct message *message = walk->message;
    struct text_reader reader = text_reader_of(text.text, text.length);
    struct cell first, cell;
    message_set_text(message, FIELD_GSM_NETWORK_TYPE, network, strlen(network));
    if (span_trim(text).length == 0) {
        message_note_removed(message, FIELD_GSM_CELLID, "", 0, message_absent);
        return;
    }
    if (!read_cell(walk, &reader, size, &first))
        return;
    bool served = is_cell(&first);
    explain_cell(walk->explanation, &first, served ? serving_cell : NULL);
    if (served)
        set_cell(message, &first, serving_cell);
    else
        message_note_removed(message, FIELD_GSM_CELLID, "", 0, message_absent);
    while (text_has_item(&reader) && read_cell(walk, &reader, size, &cell)) {
        explain_cell(walk->explanation, &cell, is_cell(&cell) ? listed_cell : NULL);
        if (!is_cell(&cell))
            continue;
        if (served && message_get(message, FIELD_GSM_CELLS) == NULL)
            list_cell(message, &first);
        list_cell(message, &cell);
    }
}

// --- positions ---

struct position {
    bool stated; // the report has a place for it
    bool fixed;  // the device says that it has a fix, or does not say
    bool has_latitude, has_longitude;
    struct decimal latitude, longitude;
};

// A position without a fix, or of exactly 0,0, is none: its coordinates are not published.
static void set_position(struct message *message, const struct position *position) {
    bool zero = position->has_latitude && position->has_longitude && position->latitude.mantissa == 0 &&
                position->longitude.mantissa == 0;
    bool valid = position->fixed && !zero;
    if (valid) {
        bool latitude = position->has_latitude &&
                        message_set_number(message, FIELD_POSITION_LATITUDE, position->latitude);
        bool longitude = position->has_longitude &&
                         message_set_number(message, FIELD_POSITION_LONGITUDE, position->longitude);
        valid = latitude && longitude;
    }
    message_set_boolean(message, FIELD_POSITION_VALID, valid);
}

// --- reports ---

static void set_payload(struct message *message, struct span data) {
    char hex[2 * FRAME_MAX + 1];
    if (data.length > 0 && utf8_valid(data.text, data.length))
        message_set_text(message, FIELD_CUSTOM_PAYLOAD, data.text, data.length);
    else if (data.length > 0)
        message_set_text(message, FIELD_CUSTOM_PAYLOAD, hex,
                         value_hex((const uint8_t *)data.text, data.length, hex));
}

// What the items of one report have to know.
struct walk_state {
    struct position position;
    int64_t now; // as in struct codec_setting
};

static void take_coordinate(struct layout_walk *walk, const struct layout_item *item, struct span text) {
    struct position *position = &((struct walk_state *)walk->context)->position;
    position->stated = true;
    if (item->kind == LATITUDE)
        position->has_latitude = layout_read_number(walk->message, item->field, text, &position->latitude);
    else
        position->has_longitude = layout_read_number(walk->message, item->field, text, &position->longitude);
}

static void take_item(struct layout_walk *walk, const struct layout_item *item,
                      const struct layout_value *value) {
    struct message *message = walk->message;
    const struct walk_state *state = walk->context;
    switch ((enum kind)item->kind) {
    case TEXT:
        set_version(message, item->field, value->text);
        break;
    case TIME:
        set_time(message, value->text, state->now);
        break;
    case EVENT:
        set_event(message, value->text);
        break;
    case LATITUDE:
    case LONGITUDE:
        take_coordinate(walk, item, value->text);
        break;
    case WIFI:
        set_wifi(walk, value->text);
        break;
    case WIFI_SSID:
        set_wifi_ssid(walk, value->text);
        break;
    case CELLS_GSM:
        set_cells(walk, value->text, 4, "GSM");
        break;
    case CELLS_LTE:
        set_cells(walk, value->text, 5, "LTE");
        break;
    }
}

// Splits the data into the layout's items, and what the report has more than those. Where one item may hold
// `+`, the items behind it are counted from the right. False when there are too few.
static bool split_items(const struct layout *layout, struct span data, struct span items[ITEMS_MAX],
                        struct span *surplus) {
    bool free_text = layout->items[1].kind == WIFI_SSID;
    size_t separators = count_char(data, '+');
    if (separators + 1 < layout->count)
        return false;
    struct text_reader reader = text_reader_of(data.text, data.length);
    for (size_t i = 0; i < layout->count; i++) {
        items[i] = text_item(&reader, '+');
        for (; free_text && i == 1 && separators + 1 > layout->count; separators--) {
            struct span more = text_item(&reader, '+');
            items[i].length = (size_t)(more.text + more.length - items[i].text);
        }
    }
    *surplus = text_rest(&reader);
    return true;
}

static bool has_satellites(const struct message *message) {
    const struct message_value *satellites = message_get(message, FIELD_POSITION_SATELLITES);
    return satellites == NULL || satellites->number.mantissa > 0;
}

static enum codec_verdict set_items(struct message *message, const struct layout *layout, struct span data,
                                    struct codec_out *out, size_t offset) {
    struct span items[ITEMS_MAX], surplus;
    struct walk_state state = {.now = out->setting->now};
    struct layout_walk walk = {.message = message,
                               .texts = items,
                               .take = take_item,
                               .context = &state,
                               .explanation = out->explanation};
    if (!split_items(layout, data, items, &surplus))
        return codec_reject(out, CODEC_BAD_VALUE, offset, "a report %s has %zu items, this one %zu",
                            layout->type, layout->count, count_char(data, '+') + 1);
    explain_table(out->explanation, false, "layouts %s", layout->type);
    layout_take_all(&walk, layout->items);
    explain_span(out->explanation, surplus, NULL, FIELD_CUSTOM_PAYLOAD);
    state.position.fixed = has_satellites(message);
    if (state.position.stated)
        set_position(message, &state.position);
    set_payload(message, surplus);
    return CODEC_OK;
}

// The devices know no "no": one that is refused hears nothing.
static bool remember_ident(struct mictrack_session *session, struct span imei, const struct codec_out *out) {
    memcpy(session->ident, imei.text, IMEI_DIGITS);
    session->ident[IMEI_DIGITS] = '\0';
    return out->identify(out->context, session->ident) == CODEC_ACCEPTED;
}

static void write_value(struct codec_writer *writer, const struct message *message, enum field field) {
    const struct message_value *value = message_get(message, field);
    char number[DECIMAL_TEXT_MAX];
    if (value != NULL && value->type == MESSAGE_NUMBER)
        codec_write(writer, number, decimal_write(value->number, number));
    else if (value != NULL)
        codec_write(writer, message->text + value->text.offset, value->text.length);
}

// Writes what the option's text has at *next, and moves on.
static void write_ack_part(struct codec_writer *writer, const struct mictrack_session *session,
                           const struct message *message, const char **next) {
    static const char seq[] = "{seq}", type[] = "{type}", ident[] = "{ident}";
    if (strncmp(*next, seq, strlen(seq)) == 0) {
        write_value(writer, message, FIELD_MESSAGE_SEQNUM);
        *next += strlen(seq);
    } else if (strncmp(*next, type, strlen(type)) == 0) {
        write_value(writer, message, FIELD_MESSAGE_TYPE);
        *next += strlen(type);
    } else if (strncmp(*next, ident, strlen(ident)) == 0) {
        codec_write(writer, session->ident, IMEI_DIGITS);
        *next += strlen(ident);
    } else {
        codec_write(writer, (*next)++, 1);
    }
}

// Once for each datagram, in the words of its first record. A text that is too long is cut.
static void acknowledge(struct mictrack_session *session, const struct message *message,
                        const struct codec_out *out) {
    const char *next = codec_option(out->setting, UDP_ACK);
    uint8_t bytes[ACK_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    if (out->setting->transport != CODEC_UDP || next == NULL || session->acknowledged)
        return;
    while (*next != '\0' && writer.length + 80 < ACK_MAX)
        write_ack_part(&writer, session, message, &next);
    session->acknowledged = true;
    if (writer.length > 0)
        out->reply(out->context, bytes, writer.length, CODEC_WHEN_SAFE);
}

struct header {
    struct span mode, imei, type, data;
};

static bool is_type(struct span type) {
    for (size_t i = 0; i < type.length; i++)
        if (!is_letter(type.text[i]) && !is_digit(type.text[i]))
            return false;
    return type.length >= 1 && type.length <= 8;
}

static enum codec_verdict read_header(struct span text, struct header *header, struct codec_out *out) {
    struct text_reader reader = text_reader_of(text.text, text.length);
    text_item(&reader, ';'); // MT
    header->mode = text_item(&reader, ';');
    header->imei = text_item(&reader, ';');
    header->type = text_item(&reader, ';');
    header->data = text_has_item(&reader) ? text_rest(&reader) : span_after(text, text.length);
    if (header->type.length == 0)
        return codec_reject(out, CODEC_SHORT, text.length, "the header has no working mode, IMEI and type");
    if (header->mode.length != 1 || !is_digit(header->mode.text[0]))
        return codec_reject(out, CODEC_BAD_VALUE, (size_t)(header->mode.text - text.text),
                            "the working mode is not one digit");
    if (header->imei.length != IMEI_DIGITS || !span_all_digits(header->imei))
        return codec_reject(out, CODEC_BAD_VALUE, (size_t)(header->imei.text - text.text),
                            "the IMEI is not 15 digits");
    if (!is_type(header->type))
        return codec_reject(out, CODEC_BAD_VALUE, (size_t)(header->type.text - text.text),
                            "the type is not 1 to 8 letters and digits");
    return CODEC_OK;
}

static void explain_header(struct explanation *explanation, struct span text, const struct header *header) {
    explain_table(explanation, false, "header");
    explain_span(explanation, (struct span){.text = text.text, .length = 2}, "mark MT", FIELD_NONE);
    explain_span(explanation, header->mode, NULL, FIELD_CUSTOM_WORK_MODE);
    explain_span(explanation, header->imei, NULL, FIELD_IDENT);
    explain_span(explanation, header->type, NULL, FIELD_MESSAGE_TYPE);
}

static enum codec_verdict decode_report(struct mictrack_session *session, struct span text,
                                        struct codec_out *out) {
    struct header header;
    struct message *message = out->scratch;
    enum codec_verdict verdict = read_header(text, &header, out);
    if (verdict != CODEC_OK)
        return verdict;
    const struct layout *layout = find_layout(header.type);
    explain_header(out->explanation, text, &header);
    message_reset(message);
    message_set_text(message, FIELD_MESSAGE_TYPE, header.type.text, header.type.length);
    message_set_integer(message, FIELD_CUSTOM_WORK_MODE, header.mode.text[0] - '0');
    if (layout != NULL)
        verdict = set_items(message, layout, header.data, out, (size_t)(header.data.text - text.text));
    else
        set_payload(message, header.data);
    if (layout == NULL) {
        explain_table(out->explanation, false, "no row of layouts");
        explain_span(out->explanation, header.data, NULL, FIELD_CUSTOM_PAYLOAD);
    }
    if (verdict != CODEC_OK)
        return verdict;
    if (!remember_ident(session, header.imei, out))
        return CODEC_OK;
    out->message(out->context, message);
    acknowledge(session, message, out);
    if (layout != NULL && layout->answers_where)
        out->answer(out->context,
                    &(struct codec_answer){.key = "where?", .implicit = true, .message = message});
    return CODEC_OK;
}

// --- low altitude ---

// ddmm.mmmm or dddmm.mmmm, and its hemisphere, to degrees.
static bool read_minutes(struct message *message, enum field field, struct span text, struct span hemisphere,
                         const char *positive, const char *negative, struct decimal *degrees) {
    struct decimal value;
    if (!layout_read_number(message, field, text, &value))
        return false;
    if (!(span_is(hemisphere, positive) || span_is(hemisphere, negative)) || value.mantissa < 0) {
        message_note_removed(message, field, hemisphere.text, hemisphere.length, "not a hemisphere");
        return false;
    }
    if (!value_degrees_of_minutes(value, degrees)) {
        message_note_removed(message, field, text.text, text.length, "not degrees and minutes");
        return false;
    }
    if (span_is(hemisphere, negative))
        degrees->mantissa = -degrees->mantissa;
    return true;
}

static void set_speed_of_knots(struct message *message, struct span text) {
    struct decimal value;
    if (text.length == 0 || !layout_read_number(message, FIELD_POSITION_SPEED, text, &value))
        return; // empty while the device stands still
    if (value_km_h_of_knots(value, &value))
        message_set_number(message, FIELD_POSITION_SPEED, value);
    else
        message_note_removed(message, FIELD_POSITION_SPEED, text.text, text.length, "out of range");
}

// hhmmss with or without a fraction.
static bool read_time_of_group(struct span clock, struct span date, struct decimal *time) {
    char digits[2 * DATE_DIGITS];
    int64_t seconds, one = 1;
    if (date.length != DATE_DIGITS || count_digits(clock.text, clock.length) != DATE_DIGITS ||
        !decimal_parse(clock.text, clock.length, time) || time->places > 6)
        return false;
    memcpy(digits, date.text, DATE_DIGITS);
    memcpy(digits + DATE_DIGITS, clock.text, DATE_DIGITS);
    if (!value_time_of_digits((struct span){.text = digits, .length = sizeof digits}, "DMYhms", &seconds))
        return false;
    for (unsigned i = 0; i < time->places; i++)
        one *= 10;
    time->mantissa = seconds * one + time->mantissa % one;
    return true;
}

static void set_time_of_group(struct message *message, struct span clock, struct span date, int64_t now) {
    struct decimal time;
    if (read_time_of_group(clock, date, &time))
        layout_set_time(message, FIELD_TIMESTAMP, time, date, now);
    else
        message_note_removed(message, FIELD_TIMESTAMP, clock.text, clock.length,
                             "no time hhmmss with date ddmmyy");
}

enum group_item {
    CLOCK,
    FIX,
    LAT,
    NORTH_SOUTH,
    LON,
    EAST_WEST,
    KNOTS,
    COURSE,
    ALTITUDE,
    DATE,
    SURPLUS, // what is behind the date, all of it
    GROUP_ITEMS,
};

// Which field each of them is for.
static const enum field group_fields[GROUP_ITEMS] = {
    [CLOCK] = FIELD_TIMESTAMP,
    [FIX] = FIELD_POSITION_VALID,
    [LAT] = FIELD_POSITION_LATITUDE,
    [NORTH_SOUTH] = FIELD_POSITION_LATITUDE,
    [LON] = FIELD_POSITION_LONGITUDE,
    [EAST_WEST] = FIELD_POSITION_LONGITUDE,
    [KNOTS] = FIELD_POSITION_SPEED,
    [COURSE] = FIELD_POSITION_DIRECTION,
    [ALTITUDE] = FIELD_POSITION_ALTITUDE,
    [DATE] = FIELD_TIMESTAMP,
    [SURPLUS] = FIELD_CUSTOM_PAYLOAD,
};

static void explain_group(struct explanation *explanation, const struct span *items) {
    if (explanation == NULL)
        return;
    for (size_t i = 0; i < GROUP_ITEMS; i++)
        explain_add_row(explanation,
                        &(struct explain_piece){.bytes = (const uint8_t *)items[i].text,
                                                .length = items[i].length,
                                                .name = "nothing, without a fix",
                                                .field = group_fields[i]},
                        i + 1);
}

static void set_group(struct message *message, const struct span *items, int64_t now) {
    struct position position = {.fixed = span_is(items[FIX], "A")};
    set_time_of_group(message, items[CLOCK], items[DATE], now);
    position.has_latitude = read_minutes(message, group_fields[LAT], items[LAT], items[NORTH_SOUTH], "N", "S",
                                         &position.latitude);
    position.has_longitude =
        read_minutes(message, group_fields[LON], items[LON], items[EAST_WEST], "E", "W", &position.longitude);
    set_position(message, &position);
    set_speed_of_knots(message, items[KNOTS]);
    set_number(message, group_fields[COURSE], items[COURSE]);
    set_number(message, group_fields[ALTITUDE], items[ALTITUDE]);
    set_payload(message, items[SURPLUS]);
}

static bool split_group(struct span group, struct span items[GROUP_ITEMS]) {
    struct text_reader reader = text_reader_of(group.text, group.length);
    for (size_t i = 0; i < SURPLUS; i++)
        items[i] = span_trim(text_item(&reader, ','));
    bool whole = !reader.fault;
    items[SURPLUS] = text_rest(&reader);
    return whole && (span_is(items[FIX], "A") || span_is(items[FIX], "V"));
}

// Each group is a record of its own: a bad one is rejected and the others are published.
static enum codec_verdict decode_low_altitude(struct mictrack_session *session, struct span text,
                                              struct codec_out *out) {
    static const char type[] = "low_altitude";
    struct span imei = {.text = text.text, .length = IMEI_DIGITS};
    struct span groups = span_after(text, IMEI_DIGITS + 1), items[GROUP_ITEMS];
    struct text_reader reader = text_reader_of(groups.text, groups.length);
    struct message *message = out->scratch;
    enum codec_verdict verdict = CODEC_OK;
    bool identified = false;
    explain_table(out->explanation, false, "group_fields");
    while (text_has_item(&reader)) {
        struct span group = text_item(&reader, '$');
        if (!split_group(group, items)) {
            verdict = codec_reject(out, CODEC_BAD_VALUE, (size_t)(group.text - text.text),
                                   "a group is not time, A or V, position, speed, course, altitude, date");
            continue;
        }
        if (!identified)
            explain_span(out->explanation, imei, NULL, FIELD_IDENT);
        if (!identified && !remember_ident(session, imei, out))
            return CODEC_OK;
        identified = true;
        explain_group(out->explanation, items);
        message_reset(message);
        message_set_text(message, FIELD_MESSAGE_TYPE, type, strlen(type));
        set_group(message, items, out->setting->now);
        out->message(out->context, message);
        acknowledge(session, message, out);
    }
    return verdict;
}

// --- answers ---

static enum codec_outcome outcome_of(const struct answer_parts *parts, bool has_fields) {
    if (has_fields || contains_word(parts->words, "otadone"))
        return CODEC_SUCCESS;
    if (contains_word(parts->value, "fail") || contains_word(parts->words, "otafailed"))
        return CODEC_FAILURE;
    return span_is_word(parts->code, "otastart") ? CODEC_PROGRESS : CODEC_SUCCESS;
}

static void lower_key(struct span code, char key[CODEC_COMMAND_KEY_MAX]) {
    size_t length = code.length < CODEC_COMMAND_KEY_MAX ? code.length : CODEC_COMMAND_KEY_MAX - 1;
    for (size_t i = 0; i < length; i++)
        key[i] = code.text[i] >= 'A' && code.text[i] <= 'Z' ? (char)(code.text[i] + 32) : code.text[i];
    key[length] = '\0';
}

// rconf: apn,username,host,port,mode,interval,version,network; false when it is not that.
static bool read_rconf(struct span value, char text[LINE_MAX_ + RCONF_FIELDS], struct property *fields) {
    static const char *const names[RCONF_FIELDS] = {"apn",  "username", "host",    "port",
                                                    "mode", "interval", "version", "network"};
    static const bool numeric[RCONF_FIELDS] = {[3] = true, [4] = true, [5] = true};
    if (count_char(value, ',') + 1 != RCONF_FIELDS || value.length > LINE_MAX_)
        return false;
    struct text_reader reader = text_reader_of(value.text, value.length);
    for (size_t i = 0; i < RCONF_FIELDS; i++) {
        struct span item = text_item(&reader, ',');
        int64_t number;
        fields[i] = (struct property){.name = names[i], .type = PROPERTY_TEXT, .text = text};
        memcpy(text, item.text, item.length);
        text[item.length] = '\0';
        text += item.length + 1;
        if (numeric[i] && span_integer(item, &number)) {
            fields[i].type = PROPERTY_NUMBER;
            fields[i].number = decimal_integer(number);
        }
    }
    return true;
}

static void put_answer(const struct answer_parts *parts, struct codec_out *out) {
    char key[CODEC_COMMAND_KEY_MAX], words[LINE_MAX_ + 1], text[LINE_MAX_ + RCONF_FIELDS];
    struct property fields[RCONF_FIELDS];
    struct properties bag = {.items = fields, .count = RCONF_FIELDS};
    bool ota = parts->code.length == 0 || span_is_word(parts->code, "ota");
    lower_key(ota ? (struct span){.text = "otastart", .length = 8} : parts->code, key);
    memcpy(words, parts->words.text, parts->words.length);
    words[parts->words.length] = '\0';
    bool parsed = span_is_word(parts->code, "rconf") && read_rconf(parts->value, text, fields);
    out->answer(out->context, &(struct codec_answer){.key = key,
                                                     .outcome = outcome_of(parts, parsed),
                                                     .text = words,
                                                     .fields = parsed ? &bag : NULL});
}

// A second answer behind the `!` of the first on the same line; false when what stands there is the first
// one's.
static bool split_off_answer(struct span *line, struct answer_parts *parts) {
    for (size_t i = 0; i < line->length; i++) {
        struct span rest = span_trim(span_after(*line, i + 1));
        struct answer_parts next;
        if (line->text[i] != '!' || !split_answer(rest, &next) || next.code.length == 0)
            continue;
        split_answer((struct span){.text = line->text, .length = i + 1}, parts);
        *line = rest;
        return true;
    }
    return false;
}

static void explain_answer(struct explanation *explanation, const struct answer_parts *parts) {
    explain_table(explanation, false, "answers");
    explain_span(explanation, parts->imei, NULL, FIELD_IDENT);
    if (parts->code.length == 0)
        explain_span(explanation, parts->words, "answer", FIELD_NONE);
    explain_span(explanation, parts->code, "command that is answered", FIELD_NONE);
    explain_span(explanation, parts->value, "answer", FIELD_NONE);
}

static enum codec_verdict decode_line(struct mictrack_session *session, struct span line,
                                      struct codec_out *out) {
    bool more = true;
    struct answer_parts parts;
    if (!split_answer(line, &parts) || line.length > LINE_MAX_)
        return codec_reject(out, CODEC_UNKNOWN_TYPE, 0, "neither a report nor an answer");
    while (more) {
        more = split_off_answer(&line, &parts);
        if (!more)
            split_answer(line, &parts);
        explain_answer(out->explanation, &parts);
        if (parts.imei.length > 0 && !remember_ident(session, parts.imei, out))
            return CODEC_OK;
        if (parts.words.length > 0)
            put_answer(&parts, out);
    }
    return CODEC_OK;
}

static enum codec_verdict mictrack_decode(void *memory, const uint8_t *frame, size_t length,
                                          struct codec_out *out) {
    struct mictrack_session *session = memory;
    session->acknowledged = session->acknowledged && out->setting->frame > 0;
    struct span text = span_trim((struct span){.text = (const char *)frame, .length = length});
    if (starts_with_header(text.text, text.length))
        return decode_report(session, text, out);
    if (text.length > IMEI_DIGITS && count_digits(text.text, text.length) == IMEI_DIGITS &&
        text.text[IMEI_DIGITS] == '$')
        return decode_low_altitude(session, text, out);
    return decode_line(session, text, out);
}

// --- commands ---

static void encode_mode(const struct properties *with, struct codec_writer *writer) {
    int64_t mode = properties_integer(with, "mode", -1);
    int64_t value = mode == 4 ? 0 : properties_integer(with, mode == 0 ? "hour" : "interval", -1);
    codec_write_text(writer, "mode,%lld,%lld#", (long long)mode, (long long)value);
}

static void encode_netlock(const struct properties *with, struct codec_writer *writer) {
    const char *network = properties_text(with, "network", "");
    bool cat_m1 = strcmp(network, "cat-m1") == 0, nb_iot = strcmp(network, "nb-iot") == 0;
    codec_write_text(writer, "netlock,%s#", cat_m1 ? "2,3,0" : nb_iot ? "3,3,1" : "1,1,2");
}

static void encode_data(const struct properties *with, struct codec_writer *writer) {
    codec_write_text(writer, "data,%s:%lld#", properties_text(with, "host", ""),
                     (long long)properties_integer(with, "port", 0));
}

static void encode_apn(const struct properties *with, struct codec_writer *writer) {
    codec_write_text(writer, "apn,%s,%s,%s#", properties_text(with, "apn", ""),
                     properties_text(with, "username", ""), properties_text(with, "password", ""));
}

static void encode_protocol(const struct properties *with, struct codec_writer *writer) {
    bool tcp = strcmp(properties_text(with, "transport", ""), "tcp") == 0;
    codec_write_text(writer, "protocol,%d,%d#", tcp, properties_boolean(with, "ack", false));
}

static void encode_light(const struct properties *with, struct codec_writer *writer) {
    codec_write_text(writer, "light,%d#", properties_boolean(with, "enabled", false));
}

static void encode_otastart(const struct properties *with, struct codec_writer *writer) {
    codec_write_text(writer, "otastart,%s:%lld,%s,%s,%s,1#", properties_text(with, "host", ""),
                     (long long)properties_integer(with, "port", 0), properties_text(with, "username", ""),
                     properties_text(with, "password", ""), properties_text(with, "firmware", ""));
}

static void encode_custom(const struct properties *with, struct codec_writer *writer) {
    codec_write_text(writer, "%s", properties_text(with, "payload", ""));
}

static const struct command {
    const char *name;
    const char *text; // of a command without properties
    void (*encode)(const struct properties *with, struct codec_writer *writer);
} commands[] = {
    {"data", NULL, encode_data},
    {"apn", NULL, encode_apn},
    {"mode", NULL, encode_mode},
    {"netlock", NULL, encode_netlock},
    {"protocol", NULL, encode_protocol},
    {"light", NULL, encode_light},
    {"rconf", "rconf,1#", NULL},
    {"reboot", "reboot,0#", NULL},
    {"factoryreset", "factoryreset,1#", NULL},
    {"otastart", NULL, encode_otastart},
    {"where?", "where?", NULL},
    {"custom", NULL, encode_custom},
};

// By the text that goes out, so that a custom text has the same answer as the command it spells.
static void expect_answer(struct span text, struct codec_expectation *expectation) {
    struct span code = {.text = text.text};
    while (code.length < text.length &&
           (is_letter(text.text[code.length]) || is_digit(text.text[code.length])))
        code.length++;
    *expectation = (struct codec_expectation){0};
    lower_key(span_is_word(span_trim(text), "where?") ? span_trim(text) : code, expectation->key);
    if (strcmp(expectation->key, "otastart") == 0) {
        expectation->timeout = OTA_TIMEOUT;
        expectation->final_after_progress = true;
    }
}

static enum codec_verdict mictrack_encode(void *session, const struct codec_setting *setting,
                                          const struct codec_command *command, struct codec_writer *writer,
                                          struct codec_expectation *expectation,
                                          char reason[CODEC_REASON_MAX]) {
    size_t i = 0, start = writer->length;
    while (i < sizeof commands / sizeof commands[0] && strcmp(commands[i].name, command->name) != 0)
        i++;
    if (i == sizeof commands / sizeof commands[0])
        return codec_refuse(reason, CODEC_UNSUPPORTED, "Mictrack devices have no such command");
    if (commands[i].encode != NULL)
        commands[i].encode(&command->properties, writer);
    else
        codec_write_text(writer, "%s", commands[i].text);
    size_t length = writer->length - start;
    if (length > COMMAND_TEXT || writer->length > writer->capacity)
        return codec_refuse(reason, CODEC_BAD_VALUE, "the text for the device has more than %d bytes",
                            COMMAND_TEXT);
    const char *text = (const char *)writer->bytes + start;
    for (size_t at = 0; at < length; at++)
        if (text[at] < ' ' || text[at] > '~')
            return codec_refuse(reason, CODEC_BAD_VALUE,
                                "the text for the device has a byte that is not printable ASCII");
    expect_answer((struct span){.text = text, .length = length}, expectation);
    return CODEC_OK;
}

static const enum field alarms[] = {FIELD_ALARM_EVENT, FIELD_BATTERY_LOW_ALARM, FIELD_GEOFENCE_IN_ALARM,
                                    FIELD_GEOFENCE_OUT_ALARM, FIELD_NONE};

// 3.5 V counts as empty and 4.2 V as full. The points between them are those of a usual cell of lithium polymer, which
// stays around 3.8 V for most of its charge; no curve of the vendor's is known.
static const struct codec_battery battery[] = {{3500, 0},  {3600, 5},  {3680, 15}, {3730, 28},
                                               {3770, 40}, {3820, 54}, {3870, 64}, {3930, 74},
                                               {4000, 84}, {4080, 93}, {4200, 100}};

const struct codec codec_mictrack = {
    .name = "mictrack",
    .id = 1,
    .title = "Mictrack MT821, MT825",
    .session_size = sizeof(struct mictrack_session),
    .frame_max = FRAME_MAX,
    .junk_max = 1024,
    .quiet_ms = 200,
    .brisk_ms = 20,
    .one_at_a_time = true,
    .separators = ";+,$=- \t",
    .alarms = alarms,
    .battery = battery,
    .options = options,
    .frame = mictrack_frame,
    .decode = mictrack_decode,
    .encode = mictrack_encode,
};
