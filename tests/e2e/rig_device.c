// The rig's devices: sockets with deadlines; see rig.h.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/rig.h"

static socklen_t address_of(const char *host, int port, struct sockaddr_storage *address) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    cr_assert(inet_pton(AF_INET6, host, &v6->sin6_addr) == 1);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

static int connected(const char *host, int port, int type) {
    struct sockaddr_storage address;
    socklen_t length = address_of(host, port, &address);
    int device = socket(address.ss_family, type, 0);
    cr_assert(device >= 0, "socket: %s", strerror(errno));
    cr_assert(connect(device, (struct sockaddr *)&address, length) == 0, "connecting to %s, port %d: %s",
              host, port, strerror(errno));
    return device;
}

int rig_tcp_at(const char *host, int port) {
    int device = connected(host, port, SOCK_STREAM), on = 1;
    setsockopt(device, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return device;
}

int rig_udp_at(const char *host, int port) {
    return connected(host, port, SOCK_DGRAM);
}

int rig_tcp_to(struct rig *rig, const char *channel) {
    return rig_tcp_at("127.0.0.1", rig_tcp_port(rig, channel));
}

int rig_udp_to(struct rig *rig, const char *channel) {
    return rig_udp_at("127.0.0.1", rig_udp_port(rig, channel));
}

int rig_tcp(struct rig *rig) {
    return rig_tcp_to(rig, "mictrack");
}

int rig_tcp_from(struct rig *rig, const char *source) {
    struct sockaddr_storage address;
    int device = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = address_of(source, 0, &address);
    cr_assert(bind(device, (struct sockaddr *)&address, length) == 0, "%s: %s", source, strerror(errno));
    length = address_of("127.0.0.1", rig_tcp_port(rig, "mictrack"), &address);
    cr_assert(connect(device, (struct sockaddr *)&address, length) == 0, "from %s: %s", source,
              strerror(errno));
    return device;
}

int rig_udp(struct rig *rig) {
    return rig_udp_to(rig, "mictrack");
}

bool rig_has_ipv6(void) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    int probe = socket(AF_INET6, SOCK_STREAM, 0);
    bool has = probe >= 0 && bind(probe, (struct sockaddr *)&address, sizeof address) == 0;
    close(probe);
    return has;
}

// --- datagrams: a burst that does not fit into the receiver's buffer is lost, and that is not what is tested ---

#define QUEUE_MAX                                                                                            \
    50000 // bytes, with what the system adds; the smallest buffer that systems give holds four times that

// What waits in the sockets of this machine that listen on that port: unread datagrams, in bytes.
static unsigned long unread_at(const char *table, unsigned port) {
    char line[256];
    unsigned long unread = 0;
    FILE *file = fopen(table, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        unsigned local;
        unsigned long waits;
        if (sscanf(line, " %*[^:]: %*[^:]:%x %*s %*s %*[^:]:%lx", &local, &waits) == 2 && local == port)
            unread += waits;
    }
    if (file != NULL)
        fclose(file);
    return unread;
}

static bool is_read(void *context) {
    const unsigned *port = context;
    return unread_at("/proc/net/udp", *port) + unread_at("/proc/net/udp6", *port) < QUEUE_MAX;
}

static void let_be_read(int device) {
    struct sockaddr_in6 peer; // its port is where that of an IPv4 address is
    socklen_t length = sizeof peer;
    int type;
    cr_assert(getsockopt(device, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof type}) == 0);
    if (type != SOCK_DGRAM || getpeername(device, (struct sockaddr *)&peer, &length) != 0)
        return;
    unsigned port = ntohs(peer.sin6_port);
    cr_assert(rig_wait(is_read, &port, RIG_DEADLINE), "nobody reads the datagrams");
}

void device_send_bytes(int device, const void *bytes, size_t length) {
    const char *next = bytes;
    let_be_read(device);
    while (length > 0) {
        ssize_t sent = send(device, next, length, MSG_NOSIGNAL);
        cr_assert(sent > 0, "the device cannot send: %s", strerror(errno));
        next += sent;
        length -= (size_t)sent;
    }
}

void device_send(int device, const char *text) {
    device_send_bytes(device, text, strlen(text));
}

void device_send_hex(int device, const char *hex) {
    size_t length;
    uint8_t *bytes = bytes_unhex(hex, &length);
    device_send_bytes(device, bytes, length);
    free(bytes);
}

void device_send_junk(int device) {
    uint8_t junk[3000];
    memset(junk, 0xA5, sizeof junk);
    device_send_bytes(device, junk, sizeof junk);
}

static ssize_t receive(int device, char *bytes, size_t capacity) {
    struct pollfd poller = {.fd = device, .events = POLLIN};
    cr_assert(poll(&poller, 1, RIG_DEADLINE) == 1, "the device hears nothing");
    return recv(device, bytes, capacity, 0);
}

void device_expect(int device, const char *text) {
    char came[1024] = "";
    size_t used = 0, length = strlen(text);
    while (used < length) {
        ssize_t got = receive(device, came + used, length - used);
        cr_assert(got > 0, "the connection was closed after '%s', expected '%s'", came, text);
        used += (size_t)got;
        cr_assert(strncmp(came, text, used) == 0, "the device got '%s', expected '%s'", came, text);
    }
}

void device_expect_bytes(int device, const void *bytes, size_t length) {
    char came[2048], came_hex[2 * sizeof came + 1], hex[2 * sizeof came + 1];
    size_t used = 0;
    cr_assert(length <= sizeof came);
    while (used < length) {
        ssize_t got = receive(device, came + used, length - used);
        cr_assert(got > 0, "the connection was closed after %zu bytes, expected %zu", used, length);
        used += (size_t)got;
    }
    bytes_hex(came, length, came_hex);
    bytes_hex(bytes, length, hex);
    cr_assert_str_eq(came_hex, hex, "the device got %s, expected %s", came_hex, hex);
}

void device_expect_hex(int device, const char *hex) {
    size_t length;
    uint8_t *bytes = bytes_unhex(hex, &length);
    device_expect_bytes(device, bytes, length);
    free(bytes);
}

void device_expect_datagram(int device, const char *text) {
    char came[2048] = "";
    cr_assert(receive(device, came, sizeof came - 1) >= 0);
    cr_assert_str_eq(came, text, "the device got the datagram '%s', expected '%s'", came, text);
}

bool device_has_bytes(int device) {
    struct pollfd poller = {.fd = device, .events = POLLIN};
    return poll(&poller, 1, 0) == 1;
}

static bool is_udp(int device) {
    int type = 0;
    socklen_t size = sizeof type;
    return getsockopt(device, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM;
}

// The end of the connection comes behind all that was sent; where there is none, the end of the program that sends.
void device_expect_no_more(int device) {
    if (is_udp(device))
        cr_assert(!device_has_bytes(device), "the device got a datagram too many");
    else
        device_expect_closed(device);
}

void device_expect_closed(int device) {
    char came[64] = "";
    ssize_t got = receive(device, came, sizeof came - 1);
    cr_assert(got <= 0, "the device got '%s', expected the end of the connection", came);
}

int device_port(int device) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    getsockname(device, (struct sockaddr *)&address, &length);
    return ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                              : ((struct sockaddr_in6 *)&address)->sin6_port);
}

const char *report(const char *ident, int seqnum) {
    static char texts[16][128];
    static unsigned next;
    char *text = texts[next++ % 16];
    snprintf(text, sizeof texts[0], "MT;6;%s;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+%d\r\n",
             ident, seqnum);
    return text;
}

int seqnum_of(const struct rig_message *message) {
    json_t *json = json_of(message);
    int seqnum = (int)json_integer_value(json_object_get(json, "message.seqnum"));
    json_decref(json);
    return seqnum;
}
