// Channels behind a load balancer: the PROXY header says where a tracker is.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/channels/proxy.h"
#include "tests/bytes.h"
#include "tests/e2e/rig.h"

TestSuite(proxy, .fini = rig_clean);

#define SIGNATURE "0d0a0d0a000d0a515549540a"
#define ERRORS    "log/gw/channels/1/error"
#define CLOSED    "log/gw/channels/1/connections/+/closed"

// --- the header ---

static const struct {
    const char *hex, *text; // one of them
    bool datagram;
    enum proxy_verdict verdict;
    size_t length;
    const char *remote;
} cases[] = {
    {NULL, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 7700\r\nMT;", false, PROXY_FROM, 44, "203.0.113.9:4711"},
    {NULL, "PROXY TCP6 2001:db8::9 2001:db8::1 4711 7700\r\n", false, PROXY_FROM, 46, "[2001:db8::9]:4711"},
    {NULL, "PROXY UNKNOWN\r\n", false, PROXY_OWN, 15, NULL},
    {NULL, "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", false, PROXY_OWN, 35, NULL},
    {NULL, "PRO", false, PROXY_MORE, 0, NULL},
    {NULL, "PROXY TCP4 203.0.113.9 192.0.2.1 4711", false, PROXY_MORE, 0, NULL},
    {NULL, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 7700\n", false, PROXY_BAD, 0, NULL},
    {NULL, "PROXY TCP4 203.0.113.9 192.0.2.1 99999 7700\r\n", false, PROXY_BAD, 0, NULL},
    {NULL, "PROXY TCP4 203.0.113.900 192.0.2.1 4711 7700\r\n", false, PROXY_BAD, 0, NULL},
    {NULL, "PROXY TCP6 203.0.113.9 192.0.2.1 4711 7700\r\n", false, PROXY_BAD, 0, NULL},
    {NULL, "PROXY UDP4 203.0.113.9 192.0.2.1 4711 7700\r\n", false, PROXY_BAD, 0, NULL},
    {NULL, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 7700\r\n", true, PROXY_BAD, 0, NULL},
    {NULL, "MT;6;866425031361423", false, PROXY_BAD, 0, NULL},
    {NULL,
     "PROXY TCP4 "
     "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
     false, PROXY_BAD, 0, NULL},
    {SIGNATURE "2111000c cb007109c00002011267 1e14", NULL, false, PROXY_FROM, 28, "203.0.113.9:4711"},
    {SIGNATURE "2112000f cb007109c000020112671e14 040000 4d54", NULL, true, PROXY_FROM, 31,
     "203.0.113.9:4711"},
    {SIGNATURE "21210024 20010db8000000000000000000000009 20010db8000000000000000000000001 12671e14", NULL,
     false, PROXY_FROM, 52, "[2001:db8::9]:4711"},
    {SIGNATURE "20000000", NULL, false, PROXY_OWN, 16, NULL},
    {SIGNATURE "2111000c cb0071", NULL, false, PROXY_MORE, 0, NULL},
    {SIGNATURE "2111000c cb0071", NULL, true, PROXY_BAD, 0, NULL},
    {SIGNATURE "21110008 cb007109c0000201", NULL, false, PROXY_BAD, 0, NULL},
    {SIGNATURE "31110000", NULL, false, PROXY_BAD, 0, NULL},
    {SIGNATURE "2111ffff", NULL, false, PROXY_BAD, 0, NULL},
    {SIGNATURE "21310000", NULL, false, PROXY_BAD, 0, NULL}, // a path of the file system
    {"0d0a0d0a", NULL, false, PROXY_MORE, 0, NULL},
    {"0d0a0d0b", NULL, false, PROXY_BAD, 0, NULL},
};

Test(proxy, header) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t length = cases[i].text != NULL ? strlen(cases[i].text) : 0;
        uint8_t *bytes =
            cases[i].hex != NULL ? bytes_unhex(cases[i].hex, &length) : (uint8_t *)strdup(cases[i].text);
        struct proxy_header header = proxy_read(bytes, length, cases[i].datagram);
        char text[ADDRESS_TEXT_MAX] = "";
        cr_expect_eq(header.verdict, cases[i].verdict, "case %zu: %d", i, header.verdict);
        cr_expect_eq(header.length, cases[i].length, "case %zu: %zu bytes", i, header.length);
        if (cases[i].remote != NULL)
            cr_expect_str_eq(address_write((const struct sockaddr *)&header.remote, text), cases[i].remote);
        cr_expect((header.verdict == PROXY_BAD) == (header.reason != NULL), "case %zu", i);
        free(bytes);
    }
}

Test(proxy, networks) {
    static const struct {
        const char *range, *address;
        bool has;
    } rows[] = {{"192.0.2.0/24", "192.0.2.255:1", true},
                {"192.0.2.0/24", "192.0.3.0:1", false},
                {"192.0.2.7", "192.0.2.7:1", true},
                {"192.0.2.7", "192.0.2.6:1", false},
                {"0.0.0.0/0", "203.0.113.9:1", true},
                {"0.0.0.0/0", "[2001:db8::1]:1", false},
                {"::/0", "203.0.113.9:1", true},
                {"2001:db8::/33", "[2001:db8:8000::]:1", false},
                {"2001:db8::/33", "[2001:db8:7fff::]:1", true}};
    static const char *const wrong[] = {"",       "/",    "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/-1",
                                        "::/129", "host", "1.2.3.4:5"};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct address_range range;
        struct sockaddr_storage address;
        cr_assert(address_range_parse(rows[i].range, &range) && address_parse(rows[i].address, &address));
        struct address_key key = address_key_of((const struct sockaddr *)&address);
        cr_expect_eq(address_range_has(&range, key.ip), rows[i].has, "row %zu", i);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_expect(!address_range_parse(wrong[i], &(struct address_range){0}), "'%s'", wrong[i]);
}

// --- the gateway ---

static struct rig *behind(const char *from, const char *limits) {
    char changes[400];
    snprintf(changes, sizeof changes,
             "{'limits':%s,'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0',"
             "'udp':'127.0.0.1:0','udp_ack':'ACK#','proxy_protocol':true,'proxy_from':['%s']}]}",
             limits, from);
    return rig_up(changes);
}

Test(proxy, connection_has_the_trackers_own_address) {
    struct rig *rig = behind("127.0.0.0/8", "{'connections_per_address':1}");
    int one = rig_tcp(rig), two = rig_tcp(rig), again = rig_tcp(rig), own = rig_tcp(rig);
    device_send(one, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 7700\r\n");
    device_send(one, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'peer':'203.0.113.9:4711','message.seqnum':1}");
    rig_expect(rig, "log/gw/channels/1/connections/+/accepted", "{'source':'203.0.113.9:4711'}");
    device_send_hex(two, SIGNATURE "2111000c cb00710a");
    device_send_hex(two, "c000020112671e14");
    device_send(two, report(CAR, 1));
    rig_expect(rig, "message/gw/devices/" CAR, "{'peer':'203.0.113.10:4711'}");
    device_send(again, "PROXY TCP4 203.0.113.9 192.0.2.1 4712 7700\r\n"); // whose address has one already
    device_expect_closed(again);
    rig_expect(rig, CLOSED, "{'close_code':20,'source':'203.0.113.9:4712'}");
    device_send_hex(own, SIGNATURE "20000000"); // the balancer looks whether we are there
    close(own);
    rig_expect(rig, CLOSED, "{'close_code':2}");
    cr_assert(rig_count(rig, ERRORS) == 0);
    rig_finish(rig);
}

Test(proxy, datagram_has_the_trackers_own_address) {
    struct rig *rig = behind("127.0.0.1", "{'datagrams_per_second':1}");
    int balancer = rig_udp(rig);
    uint8_t bytes[256];
    for (uint8_t i = 0; i < 3; i++) { // each address has its own limit
        size_t length;
        uint8_t *header = bytes_unhex(SIGNATURE "2112000c cb007109c000020112671e14", &length);
        memcpy(bytes, header, length);
        bytes[19] = i;
        strcpy((char *)bytes + length, report(VAN, i));
        device_send_bytes(balancer, bytes, length + strlen(report(VAN, i)));
        device_expect_datagram(balancer, "ACK#");
        char subset[80];
        snprintf(subset, sizeof subset, "{'peer':'203.0.113.%d:4711','message.seqnum':%d}", i, i);
        rig_expect(rig, "message/gw/devices/" VAN, subset);
        free(header);
    }
    device_send(balancer, report(CAR, 1));
    rig_expect(rig, ERRORS, "{'verdict':'PROXY_HEADER','error_text':'no PROXY header','transport':'udp'}");
    cr_assert(rig_count(rig, "message/gw/devices/" CAR) == 0);
    rig_finish(rig);
}

Test(proxy, nobody_speaks_without_a_header) {
    struct rig *rig = behind("127.0.0.1", "{}");
    int device = rig_tcp(rig), other = rig_tcp_from(rig, "127.0.0.2");
    device_send(device, report(VAN, 1));
    device_expect_closed(device);
    rig_expect(rig, ERRORS, "{'verdict':'PROXY_HEADER','error_text':'no PROXY header'}");
    rig_expect(rig, CLOSED, "{'close_code':4}");
    device_expect_closed(other);
    rig_expect(rig, ERRORS,
               "{'verdict':'PROXY_HEADER','error_text':'it is none of the balancers of proxy_from'}");
    int well = rig_tcp(rig);
    device_send(well, "PROXY UNKNOWN\r\n");
    device_send(well, report(VAN, 2));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':2}");
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) == 1);
    rig_finish(rig);
}

Test(proxy, configuration_says_whose_header_is_believed) {
    struct rig *rig = rig_new();
    rig_expect_no_start(
        rig, "{'channels':[{'id':1,'protocol':'mictrack','tcp':'127.0.0.1:0','proxy_protocol':true}]}",
        "$.channels[0]: has proxy_protocol, expected proxy_from as well");
    rig_expect_no_start(
        rig, "{'channels':[{'id':1,'protocol':'mictrack','tcp':'127.0.0.1:0','proxy_from':['x']}]}",
        "$.channels[0]: has \"x\" in proxy_from, expected an address or a network");
    rig->finished = true;
}
