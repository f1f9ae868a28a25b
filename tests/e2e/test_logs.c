// What is logged about connections, devices and bytes that made no sense.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/state.h"

TestSuite(logs, .fini = rig_clean);

#define ACCEPTED     "log/gw/channels/1/connections/+/accepted"
#define IDENTIFIED   "log/gw/channels/1/connections/+/identified"
#define CLOSED       "log/gw/channels/1/connections/+/closed"
#define ERRORS       "log/gw/+/+/error" // of channels; whoever looks for those of a device finds them by ident
#define CHANNEL_ONLY "log/gw/channels/1/error"
#define CONNECTED    "log/gw/devices/" VAN "/connected"
#define DISCONNECTED "log/gw/devices/" VAN "/disconnected"
#define SOME_REPORT  "R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113"
#define PACKET_MAX   16384 // hexadecimal digits of an entry: longer than any frame that there is

// --- what all entries have ---

static const char *text_member(const json_t *entry, const char *key) {
    const json_t *value = member(entry, key);
    cr_assert(json_is_string(value), "%s is no text", key);
    return json_string_value(value);
}

static json_int_t integer_member(const json_t *entry, const char *key) {
    const json_t *value = member(entry, key);
    cr_assert(json_is_integer(value), "%s is no integer", key);
    return json_integer_value(value);
}

static void expect_absent(const json_t *entry, const char *key) {
    const json_t *value = json_object_get(entry, key);
    cr_assert(value == NULL || json_is_null(value), "%s is there", key);
}

// ident NULL: nobody has said who it is.
static void check_entry(const json_t *entry, int code, int device, const char *transport, const char *ident) {
    char source[32];
    snprintf(source, sizeof source, "127.0.0.1:%d", device_port(device));
    cr_assert(integer_member(entry, "event_code") == code, "event_code %lld, expected %d",
              (long long)integer_member(entry, "event_code"), code);
    cr_assert(json_is_number(member(entry, "timestamp")));
    cr_assert(json_number_value(member(entry, "timestamp")) > 1.7e9);
    cr_assert(json_number_value(member(entry, "timestamp")) < 1e11, "timestamp is not in seconds");
    cr_assert(integer_member(entry, "channel_id") == 1);
    cr_assert_str_eq(text_member(entry, "source"), source);
    cr_assert_str_eq(text_member(entry, "transport"), transport);
    if (ident == NULL) {
        expect_absent(entry, "ident");
        expect_absent(entry, "device_id");
        return;
    }
    cr_assert_str_eq(text_member(entry, "ident"), ident);
}

static void check_device(const json_t *entry, json_int_t id) {
    cr_assert(integer_member(entry, "device_id") == id, "device_id is %lld, expected %lld",
              (long long)integer_member(entry, "device_id"), (long long)id);
}

// --- connections ---

// The number of the connection in the topic of an entry.
static long connection_of(const struct rig_message *message) {
    const char *start = strstr(message->topic, "/connections/");
    char *end;
    cr_assert(start != NULL);
    long number = strtol(start + 13, &end, 10);
    cr_assert(*end == '/' && end > start + 13, "no number of a connection in %s", message->topic);
    return number;
}

static json_t *expect_closed(struct rig *rig, int code) {
    char subset[48];
    snprintf(subset, sizeof subset, "{'event_code':102,'close_code':%d}", code);
    const struct rig_message *message = rig_expect(rig, CLOSED, subset);
    cr_assert(!message->retain);
    json_t *entry = json_of(message);
    static const char *const integers[] = {"close_code", "recv", "send", "msgs"};
    for (size_t i = 0; i < 4; i++)
        cr_assert(integer_member(entry, integers[i]) >= 0);
    cr_assert(json_is_number(member(entry, "duration")));
    double duration = json_number_value(member(entry, "duration"));
    cr_assert(duration >= 0 && duration < 120, "duration is %g s", duration);
    return entry;
}

// The same of this device's connection; ident NULL: nobody has said who it is.
static json_t *expect_closed_of(struct rig *rig, int code, int device, const char *ident) {
    json_t *entry = expect_closed(rig, code);
    check_entry(entry, 102, device, "tcp", ident);
    return entry;
}

Test(logs, the_life_of_a_connection) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42}]}");
    int device = rig_tcp(rig);
    const struct rig_message *accepted = rig_expect(rig, ACCEPTED, NULL);
    json_t *entry = json_of(accepted);
    check_entry(entry, 100, device, "tcp", NULL);
    json_decref(entry);
    expect_none(rig, IDENTIFIED);
    say(rig, device, VAN, SOME_REPORT);
    const struct rig_message *identified = rig_expect(rig, IDENTIFIED, NULL);
    entry = json_of(identified);
    check_entry(entry, 101, device, "tcp", VAN);
    check_device(entry, 42);
    json_decref(entry);
    say(rig, device, VAN, SOME_REPORT);
    rig_publish(rig, "command/gw/devices/42", "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\r\n");
    rig_expect(rig, "log/gw/devices/42/commands-queue/custom/processed", NULL);
    expect_none(rig, CLOSED);
    shutdown(device, SHUT_RDWR);
    entry = expect_closed(rig, 2);
    const struct rig_message *closed = rig_message_at(rig, CLOSED, 0);
    check_entry(entry, 102, device, "tcp", VAN);
    check_device(entry, 42);
    cr_assert(integer_member(entry, "recv") ==
              2 * (json_int_t)strlen("MT;6;" VAN ";" SOME_REPORT "\r\n") + 15);
    cr_assert(integer_member(entry, "send") == 10);
    cr_assert(integer_member(entry, "msgs") == 2);
    json_decref(entry);
    cr_assert(connection_of(accepted) == connection_of(identified));
    cr_assert(connection_of(accepted) == connection_of(closed));
    cr_assert(rig_count(rig, ACCEPTED) == 1 && rig_count(rig, IDENTIFIED) == 1 &&
              rig_count(rig, CLOSED) == 1);
    cr_assert(!accepted->retain && !identified->retain);
    cr_assert(rig_count_retained(rig, "log/#") == 0, "log entries are not retained");
    rig_finish(rig);
}

Test(logs, connections_have_numbers_of_their_own) {
    struct rig *rig = rig_up(NULL);
    rig_tcp(rig);
    rig_tcp(rig);
    long first = connection_of(rig_expect(rig, ACCEPTED, NULL));
    cr_assert(first != connection_of(rig_expect(rig, ACCEPTED, NULL)));
    rig_finish(rig);
}

Test(logs, connections_of_devices_without_an_identity) {
    struct rig *rig = rig_up("{'unknown_devices':'channel'}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, SOME_REPORT);
    json_t *entry = json_of(rig_expect(rig, IDENTIFIED, NULL));
    check_entry(entry, 101, device, "tcp", VAN);
    expect_absent(entry, "device_id");
    json_decref(entry);
    rig_finish(rig);
}

// --- the codes of ends; the first, by the device (2), is in the life of a connection ---

Test(logs, closed_because_the_gateway_stops) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    rig_expect(rig, IDENTIFIED, NULL);
    stop_and_hear(rig);
    json_t *entry = expect_closed_of(rig, 7, device, VAN);
    check_device(entry, atoll(VAN));
    json_decref(entry);
    rig_expect(rig, DISCONNECTED, "{'event_code':301}");
    rig->finished = true;
}

Test(logs, closed_because_the_device_connected_again) {
    struct rig *rig = rig_up(NULL);
    int first = wake(rig, VAN), second = wake(rig, VAN);
    device_expect_closed(first);
    json_decref(expect_closed_of(rig, 12, first, VAN));
    talk(rig, second, VAN);
    cr_assert(rig_count(rig, CLOSED) == 1);
    expect_none(rig, DISCONNECTED);
    rig_finish(rig);
}

Test(logs, closed_because_the_device_is_not_allowed) {
    struct rig *rig = rig_up("{'unknown_devices':'reject'}");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    device_expect_closed(device);
    json_t *entry = expect_closed_of(rig, 13, device, VAN); // whose owner wonders
    expect_absent(entry, "device_id");
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, closed_because_it_fell_silent) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':1}}");
    int device = wake(rig, VAN);
    device_expect_closed(device);
    json_decref(expect_closed_of(rig, 17, device, VAN));
    rig_expect(rig, DISCONNECTED, "{'event_code':301}");
    rig_finish(rig);
}

Test(logs, closed_because_it_did_not_say_who_it_is) {
    struct rig *rig = rig_up("{'limits':{'identify_timeout':1}}");
    int device = rig_tcp(rig);
    device_expect_closed(device);
    json_t *entry = expect_closed_of(rig, 17, device, NULL);
    cr_assert(integer_member(entry, "recv") == 0);
    cr_assert(integer_member(entry, "msgs") == 0);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, closed_because_it_is_not_this_protocol) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    device_send_junk(device);
    device_expect_closed(device);
    json_decref(expect_closed_of(rig, 19, device, NULL));
    rig_expect(rig, ERRORS, "{'event_code':103,'verdict':'JUNK'}");
    rig_finish(rig);
}

Test(logs, closed_because_it_cannot_be_read_any_further) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    device_send_junk(device);
    device_expect_closed(device);
    json_t *entry = expect_closed_of(rig, 6, device, VAN);
    cr_assert(integer_member(entry, "msgs") == 1);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, closed_because_of_too_many_connections) {
    struct rig *rig = rig_up("{'limits':{'connections':1}}");
    rig_tcp(rig);
    rig_expect(rig, ACCEPTED, NULL);
    int second = rig_tcp(rig);
    device_expect_closed(second);
    json_decref(expect_closed_of(rig, 20, second, NULL));
    rig_finish(rig);
}

Test(logs, closed_because_of_too_many_connections_from_an_address) {
    struct rig *rig = rig_up("{'limits':{'connections_per_address':1}}");
    rig_tcp(rig);
    rig_expect(rig, ACCEPTED, NULL);
    device_expect_closed(rig_tcp(rig));
    json_decref(expect_closed(rig, 20));
    int other = rig_tcp_from(rig, "127.0.0.2");
    device_send(other, report(VAN, 1));
    rig_expect(rig, IDENTIFIED, "{'ident':'" VAN "'}");
    rig_finish(rig);
}

// --- devices ---

static json_t *expect_presence(struct rig *rig, const char *topic, int code, int device,
                               const char *transport) {
    const struct rig_message *message = rig_expect(rig, topic, NULL);
    json_t *entry = json_of(message);
    check_entry(entry, code, device, transport, VAN);
    check_device(entry, atoll(VAN));
    cr_assert(!message->retain);
    return entry;
}

Test(logs, devices_that_come_and_go) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    json_decref(expect_presence(rig, CONNECTED, 300, device, "tcp"));
    talk(rig, device, VAN);
    shutdown(device, SHUT_RDWR);
    json_decref(expect_presence(rig, DISCONNECTED, 301, device, "tcp"));
    cr_assert(rig_count(rig, CONNECTED) == 1 && rig_count(rig, DISCONNECTED) == 1);
    rig_finish(rig);
}

Test(logs, devices_over_udp_that_come_and_fall_silent) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':1}}");
    int device = wake_udp(rig, VAN);
    json_decref(expect_presence(rig, CONNECTED, 300, device, "udp"));
    json_decref(expect_presence(rig, DISCONNECTED, 301, device, "udp"));
    rig_finish(rig);
}

// --- bytes that made no sense ---

static void check_hex(const char *packet) {
    size_t digits = strspn(packet, "0123456789abcdefABCDEF");
    cr_assert(packet[digits] == '\0' && digits % 2 == 0, "packet is no hexadecimal: %s", packet);
    cr_assert(digits <= PACKET_MAX, "packet has %zu digits", digits);
}

// The packet is the beginning of these bytes, or all of them.
static void check_packet(const json_t *entry, const void *bytes, size_t length, bool whole) {
    const char *packet = text_member(entry, "packet");
    check_hex(packet);
    cr_assert(*packet != '\0', "packet is empty");
    size_t came;
    uint8_t *begin = bytes_unhex(packet, &came);
    cr_assert(came <= length && (came == length || !whole), "packet has %zu bytes of %zu", came, length);
    cr_assert(memcmp(begin, bytes, came) == 0, "packet is %s", packet);
    free(begin);
}

// The entry says the same as the line in the log.
static void check_line(struct rig *rig, const json_t *entry) {
    char start[96];
    snprintf(start, sizeof start, "%s at offset %lld: ", text_member(entry, "verdict"),
             (long long)integer_member(entry, "offset"));
    cr_assert(*text_member(entry, "error_text") != '\0');
    rig_expect_log(rig, start);
}

Test(logs, bytes_of_a_stranger) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    const char *junk = "GET / HTTP/1.1";
    device_send(device, "GET / HTTP/1.1\r\n");
    const struct rig_message *message = rig_expect(rig, CHANNEL_ONLY, "{'event_code':103,'verdict':'JUNK'}");
    json_t *entry = json_of(message);
    check_entry(entry, 103, device, "tcp", NULL);
    cr_assert(integer_member(entry, "offset") == 0);
    check_packet(entry, junk, 16, false);
    cr_assert(strncasecmp(text_member(entry, "packet"), "474554202f20485454502f312e31", 28) == 0,
              "packet is %s", text_member(entry, "packet"));
    check_line(rig, entry);
    cr_assert(!message->retain);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, a_report_of_a_stranger_that_is_rejected) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    device_send(device, "MT;6;86642503136142A;R0;10+190109091803+22.6+114+2.14+69+2+3744+113\r\n");
    json_t *entry = json_of(rig_expect(rig, CHANNEL_ONLY, "{'event_code':103,'verdict':'BAD_VALUE'}"));
    check_entry(entry, 103, device, "tcp", NULL);
    check_line(rig, entry);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, a_report_of_a_device_that_is_rejected) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    const char *first = report(VAN, 1), *bad = "MT;6;" VAN ";R0;10+190109091803+22.63827\r\n";
    device_send(device, first);
    device_send(device, bad);
    json_t *entry = json_of(rig_expect(rig, ERRORS, "{'event_code':304,'ident':'" VAN "'}"));
    check_entry(entry, 304, device, "tcp", VAN);
    check_device(entry, atoll(VAN));
    cr_assert_str_eq(text_member(entry, "verdict"), "BAD_VALUE");
    json_int_t offset = integer_member(entry, "offset"), start = (json_int_t)strlen(first);
    cr_assert(offset >= start && offset < start + (json_int_t)strlen(bad), "offset %lld is not in the report",
              (long long)offset);
    check_packet(entry, bad, strlen(bad), false);
    check_line(rig, entry);
    json_decref(entry);
    rig_finish(rig);
}

// The place in the stream is that of its first byte.
Test(logs, bytes_between_two_reports) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    const char *first = report(VAN, 1);
    device_send(device, first);
    device_send(device, "what is this\r\n");
    device_send(device, report(VAN, 2));
    json_t *entry = json_of(rig_expect(rig, ERRORS, "{'event_code':304,'verdict':'JUNK'}"));
    check_entry(entry, 304, device, "tcp", VAN);
    cr_assert(integer_member(entry, "offset") == (json_int_t)strlen(first), "offset is %lld",
              (long long)integer_member(entry, "offset"));
    check_packet(entry, "what is this\r\n", 14, false);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, bytes_that_are_no_text) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    static const uint8_t junk[] = {0x00, 0x01, 0xFF, 0x1B, 0x80, 0xFE};
    device_send_bytes(device, junk, sizeof junk);
    device_send(device, report(VAN, 1));
    json_t *entry = json_of(rig_expect(rig, CHANNEL_ONLY, "{'verdict':'JUNK'}"));
    check_packet(entry, junk, sizeof junk, false);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, a_datagram_of_a_stranger) {
    struct rig *rig = rig_up(NULL);
    int device = rig_udp(rig);
    device_send(device, "MT;6;8664250313"); // cut off
    json_t *entry = json_of(rig_expect(rig, CHANNEL_ONLY, "{'event_code':103}"));
    check_entry(entry, 103, device, "udp", NULL);
    cr_assert(integer_member(entry, "offset") >= 0);
    cr_assert(integer_member(entry, "offset") <= 15, "what is missing is behind it at most");
    check_packet(entry, "MT;6;8664250313", 15, true);
    check_line(rig, entry);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, a_datagram_of_junk_as_long_as_there_can_be) {
    struct rig *rig = rig_up(NULL);
    static uint8_t junk[60000];
    memset(junk, 0xA5, sizeof junk);
    device_send_bytes(rig_udp(rig), junk, sizeof junk);
    const struct rig_message *message = rig_expect(rig, CHANNEL_ONLY, "{'event_code':103}");
    json_t *entry = json_of(message);
    check_packet(entry, junk, sizeof junk, false);
    cr_assert(message->length < PACKET_MAX + 1024, "the entry has %zu bytes", message->length);
    json_decref(entry);
    rig_finish(rig);
}

Test(logs, values_that_were_left_out) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109091803+95.125+114.02922+2.14+69+2+3744+113");
    json_t *entry = json_of(rig_expect(rig, ERRORS, "{'event_code':305}"));
    check_entry(entry, 305, device, "tcp", VAN);
    check_device(entry, atoll(VAN));
    const char *text = text_member(entry, "error_text");
    cr_assert(strstr(text, "position.latitude") != NULL, "error_text does not name the field: %s", text);
    cr_assert(strstr(text, "95.125") != NULL, "error_text does not show the value: %s", text);
    if (json_object_get(entry, "packet") != NULL)
        check_hex(text_member(entry, "packet"));
    json_decref(entry);
    rig_finish(rig);
}

// What a device says cannot break the entry: text that is no UTF-8 among it.
Test(logs, values_that_were_left_out_and_are_no_text) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109091803+22.63827+114.02922+\xFF\"\x01\xC3+69+2+3744+113");
    json_t *entry = json_of(rig_expect(rig, ERRORS, "{'event_code':305}"));
    cr_assert(strstr(text_member(entry, "error_text"), "position.speed") != NULL);
    json_decref(entry);
    rig_finish(rig);
}

// --- a flood ---

#define FLOOD 3000

struct flood {
    struct rig *rig;
    int device;
    size_t sent;
};

// How many entries an entry says that there would have been before it: in a member of its own, or in the
// text.
static size_t left_out_before(const json_t *entry) {
    static const char *const known[] = {"event_code", "channel_id", "device_id", "offset"};
    const char *key, *text = json_string_value(json_object_get(entry, "error_text")), *more;
    json_t *value;
    size_t count = 0;
    json_object_foreach((json_t *)entry, key, value) {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            is_known = is_known || strcmp(key, known[i]) == 0;
        if (json_is_integer(value) && !is_known)
            count += (size_t)json_integer_value(value);
    }
    more = text != NULL ? strstr(text, "(and ") : NULL;
    if (count == 0 && more != NULL)
        count = strtoul(more + 5, NULL, 10);
    return count;
}

static size_t all_left_out(struct rig *rig) {
    const struct rig_message *message;
    size_t count = 0;
    for (size_t next = 0; (message = rig_next(rig, CHANNEL_ONLY, &next)) != NULL;) {
        json_t *entry = json_of(message);
        count += left_out_before(entry);
        json_decref(entry);
    }
    return count;
}

#define BAD_REPORT "MT;6;12;R0;x\r\n"

static void flood(struct flood *flood, size_t count) {
    for (size_t i = 0; i < count; i++)
        device_send(flood->device, BAD_REPORT);
    flood->sent += count;
}

static bool tells_what_was_left_out(void *context) {
    struct flood *it = context;
    flood(it, 1);
    return all_left_out(it->rig) > 0;
}

Test(logs, do_not_grow_with_a_flood) {
    struct rig *rig = rig_up(NULL);
    struct flood it = {.rig = rig, .device = rig_tcp(rig)};
    flood(&it, FLOOD);
    rig_expect_counters(rig, ", 3000 records BAD_VALUE, ");
    cr_assert(rig_wait(tells_what_was_left_out, &it, RIG_DEADLINE), "no entry tells how many were left out");
    size_t count = rig_count(rig, CHANNEL_ONLY), left_out = all_left_out(rig);
    cr_assert(count < it.sent / 5, "%zu entries of %zu faults", count, it.sent);
    cr_assert(left_out > FLOOD / 2 && count + left_out <= it.sent,
              "%zu entries and %zu left out, of %zu faults", count, left_out, it.sent);
    rig_finish(rig);
}

// Nor with a flood of connections that say nothing; a device among them is seen from its name to its end.
Test(logs, do_not_grow_with_a_flood_of_connections) {
    struct rig *rig = rig_up(NULL);
    for (int i = 0; i < 800; i++) // fewer than an address may have at once
        close(rig_tcp(rig));
    say(rig, rig_tcp(rig), VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+113");
    stop_and_hear(rig);
    size_t accepted = rig_count(rig, ACCEPTED), closed = rig_count(rig, CLOSED);
    cr_assert(accepted > 0 && accepted < 400, "%zu entries of 801 beginnings", accepted);
    cr_assert(closed <= accepted + 1, "%zu entries of ends, %zu of beginnings", closed, accepted);
    rig_expect(rig, IDENTIFIED, "{'ident':'" VAN "'}");
    rig_expect(rig, CLOSED, "{'ident':'" VAN "','close_code':7,'msgs':1}");
    rig->finished = true;
}

// Other faults, and the faults of others, are seen all the same.
Test(logs, of_a_flood_hide_no_others) {
    struct rig *rig = rig_up(NULL);
    struct flood it = {.rig = rig, .device = rig_tcp(rig)};
    int others[3];
    for (int i = 0; i < 3; i++) {
        char address[16];
        snprintf(address, sizeof address, "127.0.0.%d", 2 + i);
        others[i] = rig_tcp_from(rig, address);
    }
    flood(&it, FLOOD);
    for (int i = 0; i < 3; i++)
        device_send(others[i], BAD_REPORT);
    device_send(it.device, "what is this\r\n");
    rig_expect(rig, CHANNEL_ONLY, "{'verdict':'JUNK'}");
    rig_expect_counters(rig, ", 3003 records BAD_VALUE, ");
    stop_and_hear(rig);
    size_t shown = 0;
    for (int i = 0; i < 3; i++) {
        char source[32], subset[64];
        snprintf(source, sizeof source, "127.0.0.%d:%d", 2 + i, device_port(others[i]));
        snprintf(subset, sizeof subset, "\"source\":\"%s\"", source);
        const struct rig_message *message;
        for (size_t next = 0; (message = rig_next(rig, CHANNEL_ONLY, &next)) != NULL;)
            shown += strstr(message->payload, subset) != NULL;
    }
    cr_assert(shown >= 2, "the faults of %zu others of 3 are shown", shown); // two may share a place
    rig->finished = true;
}
