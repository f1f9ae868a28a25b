// The devices of the world; see world.h.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/faults/world_parts.h"

#define RETRY_AFTER   50    // milliseconds between attempts to connect
#define REPEAT_AFTER  400   // milliseconds until a datagram is sent again
#define PATIENCE      15000 // milliseconds that Magicyo waits for an answer before it connects again
#define UNDER_WAY_MAX 16    // frames of Magicyo
#define BURST         50    // reports of a device in one turn

static void ident_of(const struct device *device, char *ident) {
    snprintf(ident, 16, "860000000000%03d", device->index);
}

// --- what it says ---

static size_t make_report(const struct device *device, int sequence, char *text) {
    char ident[16];
    ident_of(device, ident);
    return (size_t)sprintf(text, "MT;6;%s;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+%d\r\n", ident,
                           sequence);
}

// With a list of access points that is too long for the broker.
static size_t make_long_report(const struct device *device, int sequence, char *text) {
    char ident[16];
    ident_of(device, ident);
    int length = sprintf(text, "MT;6;%s;R1;190109091803+", ident);
    for (int i = 0; i < 40; i++)
        length += sprintf(text + length, "%s6a:db:54:5a:79:%02x,-%d", i > 0 ? "," : "", i, 50 + i);
    return (size_t)(length + sprintf(text + length, "+3+3831+%d\r\n", sequence));
}

// A frame of Magicyo: one attribute of a record 04/02.
static size_t make_frame(const struct device *device, int sequence, char *text) {
    static const uint8_t data[] = {4, 2, 0, 6, 1, 50};
    char ident[16];
    ident_of(device, ident);
    return bytes_magicyo((uint8_t *)text, ident, 3, (unsigned)sequence & 0xFFFF, data, sizeof data);
}

static bool is_magicyo(const struct device *device) {
    return device->kind == MAGICYO || device->kind == MAGICYO_UDP;
}

static size_t make(const struct device *device, int sequence, char *text) {
    if (is_magicyo(device))
        return make_frame(device, sequence, text);
    if ((device->flags[sequence] & UNWELCOME) != 0 && !device->forbidden)
        return make_long_report(device, sequence, text);
    return make_report(device, sequence, text);
}

// --- connecting ---

void device_close(struct device *device) {
    if (device->socket >= 0)
        close(device->socket);
    device->socket = -1;
    device->out_length = device->out_done = device->in_length = 0;
    if (device->kind == MAGICYO)
        device->next = device->answered + 1;
}

static bool is_udp(const struct device *device) {
    return device->kind == UDP || device->kind == MAGICYO_UDP;
}

static int port_of(const struct world *world, const struct device *device) {
    switch (device->kind) {
    case MICTRACK:
        return world->tcp_port;
    case MAGICYO:
        return world->magicyo_port;
    case UDP:
        return world->udp_port;
    case MAGICYO_UDP:
        return world->magicyo_udp_port;
    }
    return 0;
}

static void open_socket(struct world *world, struct device *device) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port_of(world, device)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    device->when = rig_clock();
    device->socket = socket(AF_INET, is_udp(device) ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (connect(device->socket, (struct sockaddr *)&address, sizeof address) != 0)
        device_close(device);
    else
        fcntl(device->socket, F_SETFL, O_NONBLOCK);
}

// --- what it hears ---

static void note_answer(struct world *world, struct device *device, int sequence) {
    if (sequence < 1 || sequence > SEQUENCE_MAX || (device->flags[sequence] & ACKNOWLEDGED) != 0)
        return;
    device->flags[sequence] |= ACKNOWLEDGED;
    world->counts.acknowledged++;
    world->counts.acknowledged_magicyo += device->kind == MAGICYO;
    while (device->answered < SEQUENCE_MAX && (device->flags[device->answered + 1] & ACKNOWLEDGED) != 0)
        device->answered++;
    device->when = rig_clock();
}

static void hear_frames(struct world *world, struct device *device) {
    size_t at = 0;
    while (device->in_length - at >= 24) {
        const uint8_t *frame = device->in + at;
        size_t whole = (size_t)frame[2] << 8 | frame[3];
        if (whole > device->in_length - at)
            break;
        if (frame[19] == 4)
            note_answer(world, device, frame[20] << 8 | frame[21]);
        at += whole;
    }
    memmove(device->in, device->in + at, device->in_length - at);
    device->in_length -= at;
}

// "ACK,860000000000NNN,R0,SEQ#"
static void hear_datagram(struct world *world, struct device *device, const char *text, ssize_t length) {
    if (length > 23 && length < 40 && strncmp(text, "ACK,86", 6) == 0)
        note_answer(world, device, atoi(text + 23));
}

static void hear(struct world *world, struct device *device) {
    char datagram[64] = "";
    ssize_t got;
    if (device->kind == UDP) {
        got = recv(device->socket, datagram, sizeof datagram - 1, 0);
        if (got > 0)
            hear_datagram(world, device, datagram, got);
        return; // an error says that the gateway is away
    }
    if (device->kind == MAGICYO_UDP) {
        got = recv(device->socket, device->in, sizeof device->in, 0);
        device->in_length = got > 0 ? (size_t)got : 0;
        hear_frames(world, device);
        device->in_length = 0;
        return;
    }
    got = recv(device->socket, device->in + device->in_length, sizeof device->in - device->in_length, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
        device_close(device);
        return;
    }
    device->in_length += got > 0 ? (size_t)got : 0;
    if (device->kind == MAGICYO)
        hear_frames(world, device);
}

// --- sending ---

static void mark_sent(struct world *world, struct device *device, int sequence) {
    if ((device->flags[sequence] & SENT) != 0)
        return;
    device->flags[sequence] |= SENT;
    world->counts.sent++;
    world->counts.tcp_sent += device->kind == MICTRACK;
    world->counts.udp_unique += is_udp(device);
}

static bool may_send(const struct device *device) {
    if (device->next > device->last)
        return false;
    return device->kind != MAGICYO || device->next <= device->answered + UNDER_WAY_MAX;
}

// Goes on with the report in out. False: the socket takes no more.
static bool write_out(struct world *world, struct device *device) {
    ssize_t sent = send(device->socket, device->out + device->out_done, device->out_length - device->out_done,
                        MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        device_close(device);
    if (sent <= 0)
        return false;
    device->out_done += (size_t)sent;
    if (device->out_done < device->out_length)
        return false;
    mark_sent(world, device, device->next++);
    device->out_length = device->out_done = 0;
    return true;
}

static void say_tcp(struct world *world, struct device *device) {
    for (int i = 0; i < BURST && device->socket >= 0; i++) {
        if (device->out_length == 0 && !may_send(device))
            return;
        if (device->out_length == 0 && device->kind == MAGICYO && device->next == device->answered + 1)
            device->when = rig_clock();
        if (device->out_length == 0)
            device->out_length = make(device, device->next, device->out);
        if (!write_out(world, device))
            return;
    }
}

static void say_udp(struct world *world, struct device *device, int64_t now) {
    bool fresh = device->answered + 1 == device->next && device->next <= device->last;
    bool again = device->answered + 1 < device->next && now - device->when > REPEAT_AFTER;
    if (!fresh && !again)
        return;
    device->next = device->answered + 2;
    size_t length = make(device, device->answered + 1, device->out);
    world->counts.udp_repeats += (device->flags[device->answered + 1] & SENT) != 0;
    mark_sent(world, device, device->answered + 1);
    send(device->socket, device->out, length, 0);
    device->when = now;
}

bool device_is_read(const struct device *device) {
    int waits = 0;
    if (device->kind != MICTRACK || device->socket < 0)
        return true;
    return device->next > device->last && ioctl(device->socket, SIOCOUTQ, &waits) == 0 && waits == 0;
}

void device_poll(struct world *world, const struct device *device) {
    if (device->socket >= 0)
        world_poll(world, device->socket, (short)(POLLIN | (device->out_length > 0 ? POLLOUT : 0)));
}

void device_turn(struct world *world, struct device *device) {
    int64_t now = rig_clock();
    if (device->socket < 0 && now - device->when > RETRY_AFTER)
        open_socket(world, device);
    if (device->socket >= 0 && world_is_ready(world, device->socket, POLLIN | POLLHUP | POLLERR))
        hear(world, device);
    if (device->socket < 0)
        return;
    if (device->kind == MAGICYO && device->next > device->answered + 1 && now - device->when > PATIENCE)
        device_close(device);
    else if (is_udp(device))
        say_udp(world, device, now);
    else
        say_tcp(world, device);
}
