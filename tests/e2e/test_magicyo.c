// Magicyo devices end to end: login, data, heartbeat, repeats, commands, and what breaks the protocol.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/rig.h"

#define CHANNELS_ONLY                                                                                        \
    "'channels':[{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0','udp':'127.0.0.1:0'}]"
#define CHANNELS "{" CHANNELS_ONLY "}"

#define LOGIN     0x01
#define DATA      0x03
#define ANSWER    0x04
#define HEARTBEAT 0x0C

#define POSITION "04 00 01 5f5e1000 1a 00f6adfeaa 228b13 02db0f 00f00900c0 000005"
#define VERSIONS                                                                                             \
    "0002 1101 18 4d43555f4745564d3632303053554556302e302e30423033 13 "                                      \
    "47455f564d363230305356302e302e30423032 "                                                                \
    "5f5e1000"

TestSuite(magicyo, .fini = rig_clean);

struct bytes {
    uint8_t data[MAGICYO_FRAME_MAX];
    size_t length;
};

static struct bytes frame(const char *imei, uint8_t type, uint16_t id, const char *hex) {
    struct bytes frame;
    size_t length;
    uint8_t *data = bytes_unhex(hex, &length);
    frame.length = bytes_magicyo(frame.data, imei, type, id, data, length);
    free(data);
    return frame;
}

static void send_frame(int device, uint8_t type, uint16_t id, const char *hex) {
    struct bytes bytes = frame(LORRY, type, id, hex);
    device_send_bytes(device, bytes.data, bytes.length);
}

static void expect_frame(int device, uint8_t type, uint16_t id, const char *hex) {
    struct bytes bytes = frame(LORRY, type, id, hex);
    device_expect_bytes(device, bytes.data, bytes.length);
}

static int lorry(struct rig *rig) {
    return rig_tcp_to(rig, "magicyo");
}

// A device that has logged in.
static int known_lorry(struct rig *rig) {
    int device = lorry(rig);
    send_frame(device, LOGIN, 100, VERSIONS);
    expect_frame(device, 0x02, 100, "01");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.type':'login'}");
    return device;
}

Test(magicyo, login) {
    struct rig *rig = rig_up(CHANNELS);
    int device = lorry(rig);
    send_frame(device, LOGIN, 1, VERSIONS);
    expect_frame(device, 0x02, 1, "01");
    rig_expect(rig, "message/gw/channels/2/" LORRY,
               "{'message.type':'login','message.type.enum':1,'message.seqnum':1,'protocol.version':'0.0.2',"
               "'ecu.hardware.version':'1.4.1','software.version':'MCU_GEVM6200SUEV0.0.0B03',"
               "'modem.hardware.version':'GE_VM6200SV0.0.0B02','timestamp':1600000000,'protocol.id':2,'"
               "channel.id':2,"
               "'device.id':" LORRY "}");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.type':'login'}");
    rig_finish(rig);
}

Test(magicyo, mk100_login_is_answered_in_its_form) {
    struct rig *rig = rig_up(CHANNELS);
    int device = lorry(rig);
    device_send_hex(device, "55550003383634383637303232353131303135010009010011023402010201ABAAAA");
    device_expect_hex(device, "5555000338363438363730323235313130313502000101 00aaaa");
    rig_expect(rig, "message/gw/devices/" LORRY,
               "{'message.type':'login','custom.payload':'010011023402010201'}");
    rig_finish(rig);
}

Test(magicyo, positions_without_login_over_udp) {
    struct rig *rig = rig_up(CHANNELS);
    int device = rig_udp_to(rig, "magicyo");
    send_frame(device, DATA, 7, POSITION);
    expect_frame(device, ANSWER, 7, "0400");
    rig_expect(
        rig, "message/gw/devices/" LORRY,
        "{'message.type':'data','event.enum':0,'position.latitude':22.63827,'position.longitude':114.02922}");
    rig_finish(rig);
}

Test(magicyo, heartbeat) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    send_frame(device, HEARTBEAT, 9, "");
    expect_frame(device, 0x0D, 9, "");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.type':'heartbeat','message.type.enum':12}");
    rig_finish(rig);
}

Test(magicyo, a_frame_in_two_pieces_and_two_in_one) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    struct bytes first = frame(LORRY, DATA, 1, POSITION), second = frame(LORRY, HEARTBEAT, 2, "");
    device_send_bytes(device, first.data, 30);
    cr_assert(!device_has_bytes(device));
    memcpy(first.data + first.length, second.data, second.length);
    device_send_bytes(device, first.data + 30, first.length + second.length - 30);
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.seqnum':1}");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.seqnum':2}");
    rig_finish(rig);
}

Test(magicyo, what_is_repeated_is_answered_again_and_published_once) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    for (int i = 0; i < 3; i++) {
        send_frame(device, DATA, 11, POSITION);
        expect_frame(device, ANSWER, 11, "0400");
    }
    send_frame(device, DATA, 12, POSITION);
    expect_frame(device, ANSWER, 12, "0400");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.seqnum':12}");
    cr_assert(rig_count(rig, "message/gw/devices/" LORRY) == 3, "login, 11 and 12");
    rig_finish(rig);
}

Test(magicyo, data_is_answered_when_the_broker_has_it) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    rig_broker_freeze(rig);
    send_frame(device, DATA, 21, POSITION);
    send_frame(device, HEARTBEAT, 22, "");
    expect_frame(device, 0x0D, 22, ""); // which needs no broker; so the data was taken before it
    cr_assert(!device_has_bytes(device));
    rig_broker_thaw(rig);
    expect_frame(device, ANSWER, 21, "0400");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.seqnum':21}");
    rig_finish(rig);
}

#define REPEATS 4000

// Memory does not grow with them.
Test(magicyo, what_is_repeated_while_the_broker_is_deaf_is_answered_once) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    rig_broker_freeze(rig);
    struct bytes one = frame(LORRY, DATA, 101, POSITION);
    uint8_t *all =
        malloc(REPEATS * one.length); // sent at once: in two seconds the disk has it, and it is answered
    for (size_t i = 0; i < REPEATS; i++)
        memcpy(all + i * one.length, one.data, one.length);
    device_send_bytes(device, all, REPEATS * one.length);
    free(all);
    send_frame(device, HEARTBEAT, 102, "");
    expect_frame(device, 0x0D, 102, ""); // all of it was read
    rig_broker_thaw(rig);
    expect_frame(device, ANSWER, 101, "0400");
    send_frame(device, HEARTBEAT, 103, "");
    expect_frame(device, 0x0D, 103, "");
    rig_finish(rig);
}

Test(magicyo, commands_and_their_answers) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    rig_publish(rig, "command/gw/devices/" LORRY,
                "{\"name\":\"parameters.set\",\"properties\":{\"parameters\":[{\"id\":17,\"value\":60,"
                "\"size\":2}]}}");
    expect_frame(device, DATA, 1, "f102 00000011 003c");
    send_frame(device, ANSWER, 1, "f102 0011 01");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/parameters.set/processed",
               "{'executed':true,'response':{'parameters.17':true}}");
    rig_publish(rig, "command/gw/devices/" LORRY,
                "{\"name\":\"parameters.get\",\"properties\":{\"ids\":[17]}}");
    expect_frame(device, DATA, 2, "f103 00000011");
    send_frame(device, ANSWER, 2, "f103 00000011 02 003c");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/parameters.get/processed",
               "{'executed':true,'response':{'parameters.17':60}}");
    rig_publish(rig, "command/gw/devices/" LORRY, "{\"name\":\"accelerometer.calibrate\"}");
    expect_frame(device, DATA, 3, "f107");
    send_frame(device, ANSWER, 3, "f107 00");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/accelerometer.calibrate/processed",
               "{'executed':false}");
    rig_publish(rig, "command/gw/devices/" LORRY, "f1070102");
    expect_frame(device, DATA, 4, "f107 0102");
    send_frame(device, ANSWER, 4, "f107");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/custom/processed", "{'executed':true}");
    rig_finish(rig);
}

Test(magicyo, answers_find_their_commands_by_the_frame_id) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    rig_publish(rig, "command/gw/devices/" LORRY,
                "[{\"name\":\"parameters.get\",\"properties\":{\"ids\":[1]},\"meta\":{\"is\":\"first\"}},"
                "{\"name\":\"parameters.get\",\"properties\":{\"ids\":[2]},\"meta\":{\"is\":\"second\"}}]");
    expect_frame(device, DATA, 1, "f103 00000001");
    expect_frame(device, DATA, 2, "f103 00000002");
    send_frame(device, ANSWER, 2, "f103 00000002 01 16");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/parameters.get/processed",
               "{'meta':{'is':'second'},'response':{'parameters.2':22}}");
    send_frame(device, ANSWER, 1, "f103 00000001 01 0b");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/parameters.get/processed",
               "{'meta':{'is':'first'},'response':{'parameters.1':11}}");
    rig_finish(rig);
}

Test(magicyo, a_command_over_udp) {
    struct rig *rig = rig_up(CHANNELS);
    int device = rig_udp_to(rig, "magicyo");
    send_frame(device, HEARTBEAT, 5, "");
    expect_frame(device, 0x0D, 5, "");
    rig_publish(rig, "command/gw/channels/2/" LORRY, "{\"name\":\"accelerometer.calibrate\"}");
    expect_frame(device, DATA, 1, "f107");
    send_frame(device, ANSWER, 1, "f107 01");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/accelerometer.calibrate/processed",
               "{'executed':true}");
    rig_finish(rig);
}

Test(magicyo, disconnect_closes_the_connection) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    send_frame(device, 0x0E, 3, "");
    device_expect_closed(device);
    rig_expect_log(rig, "closed by the device (code 2)");
    rig_finish(rig);
}

Test(magicyo, a_wrong_checksum_costs_only_its_frame) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig);
    struct bytes broken = frame(LORRY, DATA, 31, POSITION);
    broken.data[40] ^= 1;
    device_send_bytes(device, broken.data, broken.length);
    send_frame(device, DATA, 32, POSITION);
    expect_frame(device, ANSWER, 32, "0400");
    rig_expect_log(rig, "BAD_CHECKSUM at offset");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.seqnum':32}");
    rig_finish(rig);
}

Test(magicyo, a_frame_that_never_ends_is_closed_for_silence) {
    struct rig *rig =
        rig_up("{'limits':{'identify_timeout':1},'channels':[{'id':2,'name':'magicyo','protocol':"
               "'magicyo','tcp':'127.0.0.1:0'}]}");
    int device = lorry(rig);
    struct bytes whole = frame(LORRY, DATA, 1, POSITION);
    device_send_bytes(device, whole.data, whole.length - 1);
    device_expect_closed(device);
    rig_expect_log(rig, "silent for too long (code 17)");
    rig_finish(rig);
}

// Stops when the gateway gives up: it would never read 64 MB.
Test(magicyo, endless_marks_close_the_connection) {
    struct rig *rig = rig_up(CHANNELS);
    int device = lorry(rig), good = known_lorry(rig);
    static uint8_t marks[2048];
    memset(marks, 0x55, sizeof marks);
    for (int i = 0; i < 5; i++)
        device_send_bytes(device, marks, sizeof marks);
    rig_expect_log(rig, "not this protocol (code 19)");
    send_frame(good, HEARTBEAT, 1, "");
    expect_frame(good, 0x0D, 1, "");
    rig_finish(rig);
}

// What is repeated is answered each time. Whoever never reads the answers is cut off before they take the
// gateway's memory: the system takes some megabytes of them first.
Test(magicyo, a_device_that_does_not_read_is_cut_off) {
    struct rig *rig = rig_up(CHANNELS);
    int device = known_lorry(rig), size = 65536; // with less the system does not hear what is acknowledged
    uint8_t frames[16 * 64];
    struct bytes one = frame(LORRY, HEARTBEAT, 12, ""); // answered each time
    send_frame(device, DATA, 11, POSITION);
    for (size_t i = 0; i < 16; i++)
        memcpy(frames + i * one.length, one.data, one.length);
    setsockopt(device, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    for (int i = 0; i < 50000; i++)
        if (send(device, frames, 16 * one.length, MSG_NOSIGNAL) < 0)
            break;
    rig_expect_log(rig, "limit reached (code 20)");
    rig_expect(rig, "message/gw/devices/" LORRY, "{'message.seqnum':11}");
    rig_finish(rig);
}

// --- two gateways ---

#define VANETTE "864867022511999"

// When this has come through to its device, the gateway there has heard of all that was published before.
static void expect_heard(struct rig *rig, int vanette) {
    struct bytes expected = frame(VANETTE, DATA, 1, "f107"), answer = frame(VANETTE, ANSWER, 1, "f107 01");
    rig_publish(rig, "command/gw/devices/" VANETTE, "{\"name\":\"accelerometer.calibrate\"}");
    device_expect_bytes(vanette, expected.data, expected.length);
    device_send_bytes(vanette, answer.data, answer.length);
    rig_expect(rig, "log/gw/devices/" VANETTE "/commands-queue/accelerometer.calibrate/processed",
               "{'executed':true}");
}

// The number of the frame is all that tells what the device answers there.
Test(magicyo, a_command_is_answered_at_the_gateway_that_the_device_moves_to) {
    rig_share_key();
    struct rig *rig = rig_up(CHANNELS), *second = rig_beside(rig);
    rig_gateway_start(second,
                      "{'mqtt':{'client_id':'second'},'commands':{'intake':false}," CHANNELS_ONLY "}");
    rig_expect_log(second, ": connected");
    int device = known_lorry(rig), vanette = rig_tcp_to(second, "magicyo");
    struct bytes hello = frame(VANETTE, HEARTBEAT, 1, ""), welcome = frame(VANETTE, 0x0D, 1, "");
    device_send_bytes(vanette, hello.data, hello.length);
    device_expect_bytes(vanette, welcome.data, welcome.length);
    rig_publish(rig, "command/gw/devices/" LORRY,
                "{\"name\":\"parameters.get\",\"properties\":{\"ids\":[17]}}");
    expect_frame(device, DATA, 1, "f103 00000011");
    expect_heard(rig, vanette);
    close(device);
    device = rig_tcp_to(second, "magicyo");
    send_frame(device, ANSWER, 1, "f103 00000011 02 003c");
    rig_expect(rig, "log/gw/devices/" LORRY "/commands-queue/parameters.get/processed",
               "{'executed':true,'response':{'parameters.17':60},'attempts':1}");
    rig_finish(rig);
}
