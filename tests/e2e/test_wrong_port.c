// Devices on the wrong port, and what else knocks there: the log says what it looks like and where it belongs.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/command_life.h"
#include "tests/e2e/rig.h"

TestSuite(wrong_port, .fini = rig_clean);

#define ERRORS "log/gw/channels/+/error"
#define CLOSED "log/gw/channels/+/connections/+/closed"
#define BOTH                                                                                                 \
    "{'limits':{'identify_timeout':2},'channels':["                                                          \
    "{'id':1,'name':'cars','protocol':'mictrack','tcp':'127.0.0.1:0','udp':'127.0.0.1:0'},"                  \
    "{'id':2,'name':'lorries','protocol':'magicyo','tcp':'127.0.0.1:0','udp':'127.0.0.1:0'}]}"

static void expect_told(struct rig *rig, const char *what) {
    char subset[256];
    rig_expect_log(rig, what);
    snprintf(subset, sizeof subset, "{'event_code':103,'verdict':'OTHER_PROTOCOL','error_text':'%s'}", what);
    rig_expect(rig, ERRORS, subset);
}

static void expect_not_identified(struct rig *rig) {
    cr_assert(!rig_log_has(rig, "identified"));
    expect_none(rig, "message/gw/#");
}

static void expect_19(struct rig *rig, int device) {
    device_expect_closed(device);
    rig_expect(rig, CLOSED, "{'close_code':19,'msgs':0}");
    expect_not_identified(rig);
}

static size_t heartbeat(uint8_t *frame) {
    return bytes_magicyo(frame, LORRY, 0x0C, 1, "", 0);
}

// It looks like a device of another protocol, whose channel is that one.
static void expect_guess(struct rig *rig, int device, const char *protocol, const char *channel) {
    char text[96];
    snprintf(text, sizeof text, "this looks like %s; channel %s listens on %d", protocol, channel,
             rig_tcp_port(rig, channel));
    expect_told(rig, text);
    expect_19(rig, device);
    rig_finish(rig);
}

Test(wrong_port, mictrack_on_the_port_of_magicyo) {
    struct rig *rig = rig_up(BOTH);
    int device = rig_tcp_to(rig, "lorries");
    device_send(device, report(VAN, 1));
    expect_guess(rig, device, "mictrack", "cars");
}

// Whose IMEI stands in the middle of its bytes: nobody is identified by that.
Test(wrong_port, magicyo_on_the_port_of_mictrack) {
    struct rig *rig = rig_up(BOTH);
    uint8_t frame[MAGICYO_FRAME_MAX];
    int device = rig_tcp_to(rig, "cars");
    device_send_bytes(device, frame, heartbeat(frame));
    expect_guess(rig, device, "magicyo", "lorries");
}

Test(wrong_port, bytes_that_come_one_by_one) {
    struct rig *rig = rig_up(BOTH);
    uint8_t frame[MAGICYO_FRAME_MAX];
    size_t length = heartbeat(frame);
    int device = rig_tcp_to(rig, "cars");
    for (size_t i = 0; i < length; i++)
        device_send_bytes(device, frame + i, 1);
    rig_expect_log(rig, "this looks like magicyo; channel lorries listens on ");
    expect_19(rig, device);
    rig_finish(rig);
}

Test(wrong_port, datagrams) {
    struct rig *rig = rig_up(BOTH);
    char text[96];
    device_send(rig_udp_to(rig, "lorries"), report(VAN, 1));
    snprintf(text, sizeof text, "this looks like mictrack; channel cars listens on %d",
             rig_udp_port(rig, "cars"));
    expect_told(rig, text);
    expect_not_identified(rig);
    rig_finish(rig);
}

Test(wrong_port, protocol_that_is_spoken_over_tcp_only) {
    struct rig *rig = rig_up("{'channels':[{'id':1,'name':'cars','protocol':'mictrack','tcp':'127.0.0.1:0'},"
                             "{'id':2,'name':'lorries','protocol':'magicyo','udp':'127.0.0.1:0'}]}");
    char text[96];
    device_send(rig_udp_to(rig, "lorries"), report(VAN, 1));
    snprintf(text, sizeof text, "this looks like mictrack; channel cars listens on %d over TCP",
             rig_tcp_port(rig, "cars"));
    expect_told(rig, text);
    rig_finish(rig);
}

Test(wrong_port, protocol_that_nobody_listens_for) {
    struct rig *rig = rig_up(NULL);
    uint8_t frame[MAGICYO_FRAME_MAX];
    device_send_bytes(rig_tcp(rig), frame, heartbeat(frame));
    expect_told(rig, "this looks like magicyo, and no channel here listens for that");
    rig_finish(rig);
}

static const struct {
    const char *name, *bytes;
} strangers[] = {
    {"HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
    {"HTTP", "POST /x HTTP/1.1\r\n\r\n"},
    {"TLS", "\x16\x03\x01\x02\x01\x01\x01\xfc\x03\x03\xa5\xa5"},
    {"SSH", "SSH-2.0-OpenSSH_9.2p1\r\n"},
};

#define STRANGERS (2 * sizeof strangers / sizeof strangers[0])

// All at once, because each is closed only when its time to identify is over.
Test(wrong_port, protocols_that_no_tracker_speaks) {
    struct rig *rig = rig_up(BOTH);
    const char *const channels[] = {"cars", "lorries"};
    int devices[STRANGERS];
    for (size_t i = 0; i < STRANGERS; i++) {
        devices[i] = rig_tcp_to(rig, channels[i % 2]);
        device_send(devices[i], strangers[i / 2].bytes);
    }
    for (size_t i = 0; i < STRANGERS; i++) {
        char text[96];
        snprintf(text, sizeof text, "this looks like %s, which no tracker speaks", strangers[i / 2].name);
        expect_told(rig, text);
    }
    for (size_t i = 0; i < STRANGERS; i++)
        expect_19(rig, devices[i]);
    rig_finish(rig);
}

// A device that is in the right place is never told otherwise, whatever is wrong with what it says.
Test(wrong_port, right_port) {
    struct rig *rig = rig_up(BOTH);
    uint8_t frame[MAGICYO_FRAME_MAX];
    int car = rig_tcp_to(rig, "cars"), lorry = rig_tcp_to(rig, "lorries");
    device_send(car, "\x01\x02 what\r\n");
    device_send(car, report(VAN, 1));
    device_send(car, "GET / HTTP/1.1\r\n");
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    size_t length = heartbeat(frame);
    device_send_bytes(lorry, frame, length);
    device_send_bytes(lorry, "junk", 4);
    device_send(lorry, report(VAN, 2));
    rig_expect_log_times(rig, "identified", 2);
    rig_expect_log_times(rig, "JUNK at offset", 4);
    cr_assert(!rig_log_has(rig, "this looks like"));
    rig_finish(rig);
}
